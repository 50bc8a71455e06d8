"""`python -m longtail.export`, under the name that it had before: see longtail.serving.export."""

import sys

from longtail.serving.export import main

if __name__ == "__main__":
    sys.exit(main())
