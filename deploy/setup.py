"""Make what the servers need before the first night: the buckets, the work pool and the deployment.

Run in the root of a clone, with the environment of compose.yaml; run again, it changes nothing but the deployment.
"""

import os
import subprocess
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

PREFECT = (
    ("work-pool", "create", "longtail", "--type", "process", "--overwrite"),
    ("--no-prompt", "deploy", "--all"),
)


def make_buckets() -> None:
    """Make the buckets of MLflow and DVC, unless they exist."""
    s3 = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in {os.environ["MLFLOW_BUCKET"], os.environ["DVC_BUCKET"]} - existing:
        s3.create_bucket(Bucket=name)
        print(f"Made the bucket {name}.")


def main() -> int:
    """Make them all; exit code 2 for an environment that lacks a variable, 1 if a server refuses."""
    try:
        make_buckets()
    except KeyError as missing:
        print(f"{missing.args[0]} is not set: run this by compose, or set what compose.yaml sets.", file=sys.stderr)
        return 2
    except (ClientError, BotoCoreError) as error:
        print(f"S3 at {os.environ['S3_ENDPOINT_URL']} cannot be used: {error}", file=sys.stderr)
        return 1
    for arguments in PREFECT:
        if code := subprocess.run([sys.executable, "-m", "prefect", *arguments]).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
