"""No tool phones home: programs run with every look-up and connection of theirs written down."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pipeline_fixtures"]

# Loaded by each Python that the programs start, their servers and daemons included.
GUARD = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith("127.") and host not in ("localhost", "::1", "", "0.0.0.0", "None"):
        with open(os.environ["OUTSIDE"], "a") as file:
            file.write(f"{host} {sys.argv}\\n")

sys.addaudithook(note)
"""


@pytest.fixture
def outside(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Guard all programs; return the file that names the outside addresses they asked for."""
    folder, file = tmp_path / "guard", tmp_path / "outside"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    file.touch()
    monkeypatch.setenv("OUTSIDE", str(file))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the environment is not activated
    for name in ("CI", "DVC_TEST", "DVC_NO_ANALYTICS", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    return file


def python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=project, capture_output=True, text=True, check=False)


def test_the_guard_sees_a_look_up(project: Path, outside: Path) -> None:
    python(project, "-c", "import socket; socket.getaddrinfo('outside.invalid', 80)")
    assert "outside.invalid" in outside.read_text()


def test_dvc_alone_asks_nobody(project: Path, outside: Path) -> None:
    finished = subprocess.run([Path(sys.executable).with_name("dvc"), "status"], cwd=project, check=False)
    assert finished.returncode == 0
    assert outside.read_text() == ""


def test_a_flow_without_server_and_internet_completes_and_asks_nobody(
    project: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("LONGTAIL_TRACKING")
    shutil.rmtree(project / "src")  # longtail itself, with MLflow
    script = (project / "stage.sh").read_text()
    (project / "stage.sh").write_text(script + 'echo "$LONGTAIL_PARENT_RUN" >parent\n')
    finished = python(project, "-m", "pipelines.train")
    assert finished.returncode == 0, finished.stderr
    assert "Finished in state Completed()" in finished.stderr
    assert "working on report" in finished.stderr
    assert outside.read_text() == ""
    show = "import mlflow, sys; print(mlflow.MlflowClient('sqlite:///mlflow.db').get_run(sys.argv[1]).info.status)"
    parent = (project / "parent").read_text().strip()
    assert python(project, "-c", show, parent).stdout.strip() == "FINISHED"
