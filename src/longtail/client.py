"""`python -m longtail.client` and its class, under the name that they had before: see longtail.serving.client."""

import sys

from longtail.serving.client import Answer, Client, ClientError, main

__all__ = ["Answer", "Client", "ClientError"]

if __name__ == "__main__":
    sys.exit(main())
