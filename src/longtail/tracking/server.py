"""Where MLflow is, and how to reach it without waiting for it."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from longtail.progress import say_once

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
PORTS = {"http": 80, "https": 443}
PROBE_SECONDS = 2.0
# mlflow's own defaults would hold a training for minutes. An artifact may be large: its upload gets longer.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
}
# No telemetry, no news; what goes wrong is said in a sentence.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends on a server
}


@dataclass(frozen=True)
class Server:
    """An MLflow that answered.

    Args:
        experiment: id of the experiment that all runs belong to.
    """

    uri: str
    client: MlflowClient
    experiment: str


def is_on() -> bool:
    """Say whether anything is to be recorded: not if switched off, nor where mlflow is not installed."""
    off = os.environ.get("LONGTAIL_TRACKING", "on").lower() in ("off", "0", "false", "no")
    return not off and importlib.util.find_spec("mlflow") is not None


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI or the default; a relative sqlite file belongs to `root`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{(root / uri.removeprefix(SQLITE)).resolve()}"
    return uri


def connect(root: Path) -> Server:
    """Reach MLflow and its experiment; make database and experiment if they do not exist.

    Raises:
        OSError: if the server does not answer within 2 s.
        Exception: whatever mlflow raises.
    """
    uri = tracking_uri(root)
    _probe(uri)
    for name, value in (QUIET | PATIENCE).items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    _look_here(uri)
    with locked(root):  # several processes that migrate a new sqlite file fail
        client = MlflowClient(tracking_uri=uri)
        return Server(uri, client, _experiment(client, uri))


def _look_here(uri: str) -> None:
    """Tell mlflow where logged models are: its registry asks there, whatever address a client was given itself.

    mlflow writes the address into the environment too, where the next `connect`, to another root, would find it.
    """
    from mlflow import set_tracking_uri

    before = os.environ.get("MLFLOW_TRACKING_URI")
    set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def locked(root: Path) -> FileLock:
    """Return the lock under which databases, experiments and parent runs are made."""
    folder = root / ".longtail"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "tracking.lock", timeout=60)


def _probe(uri: str) -> None:
    """Knock: refused at once or silent for 2 s, either is cheaper to learn here than through mlflow."""
    parts = urlsplit(uri)
    if parts.scheme in PORTS and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), PROBE_SECONDS).close()


def _experiment(client: MlflowClient, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "longtail"
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifacts(uri))
        except MlflowException:  # another machine was faster; if it was not that, the next line says so
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifacts(uri: str) -> str | None:
    """Return a folder beside the sqlite file, since mlflow would use the working folder; None lets a server choose."""
    if not uri.startswith(SQLITE):
        return None
    return str(Path(uri.removeprefix(SQLITE)).parent / "mlartifacts")


def excuse(root: Path, error: Exception) -> None:
    """Say in one sentence that the record is missing and how to send it: a training is worth more than its record."""
    trouble = f"MLflow at {without_password(tracking_uri(root))} {reason(error)}"
    say_once_per_command(root, f"{trouble}: the run goes on; send it later with `python -m longtail.tracking sync`.")


def reason(error: Exception) -> str:
    """Say what is the matter with MLflow, to be put after its name."""
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    network = isinstance(error, OSError) or re.search(r"failed with (timeout )?exception|timed out", lines[0])
    return "cannot be reached" if network else f"did not take the record ({lines[0][:200].rstrip('.')})"


def without_password(text: str) -> str:
    """Return an address, or a message, without the user and password that it may hold."""
    return re.sub(r"//[^/\s]*@", "//", text)


def say_once_per_command(root: Path, sentence: str) -> None:
    """Print a sentence once per process and, of all the stages that one DVC command runs, once per command."""
    note, command = root / ".longtail" / "tracking.said", dvc_command()
    heard = command is not None and note.exists() and note.read_text() == command
    if not heard:
        say_once(sentence, sys.stderr)
    if command is not None:
        with suppress(OSError):  # on a full disk it is said again, no more
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(command)


def dvc_command() -> str | None:
    """Identify the DVC command that runs this process, for instance one `dvc repro`; None if there is none."""
    for process in psutil.Process().parents():
        try:
            if any(Path(part).name == "dvc" for part in process.cmdline()[:3]):
                return f"{process.pid} {process.create_time()}"
        except psutil.Error:
            continue
    return None
