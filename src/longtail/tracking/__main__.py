"""`python -m longtail.tracking sync` sends to MLflow what is missing there; `... uri` prints where MLflow is."""

import argparse
import sys

from longtail.params import load_params
from longtail.spec import InputError
from longtail.tracking.server import connect, is_on, reason, tracking_uri, without_password
from longtail.tracking.sync import sync
from longtail.workspace import home


def main() -> int:
    """Run a command; exit code 2 and a sentence for what the user can mend, 1 if MLflow does not take the runs."""
    parser = argparse.ArgumentParser(prog="python -m longtail.tracking", description=__doc__)
    parser.add_argument("command", choices=["sync", "uri"])
    command = parser.parse_args().command
    uri = tracking_uri(home())
    if command == "uri":
        print(uri)
        return 0
    if not is_on():
        print("Nothing was sent: LONGTAIL_TRACKING is off or mlflow is not installed.", file=sys.stderr)
        return 2
    return _sync(without_password(uri))


def _sync(uri: str) -> int:
    try:
        params, root = load_params(), home()
        sent = sync(connect(root), params, root)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        print(f"MLflow at {uri} {reason(error)}. Start it, or set MLFLOW_TRACKING_URI, and try again.", file=sys.stderr)
        return 1
    print(f"Sent to {uri}: {', '.join(sent)}." if sent else f"MLflow at {uri} has everything.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
