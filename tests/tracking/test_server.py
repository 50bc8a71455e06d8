"""Servers that are down, silent or dying cost the training a sentence, and sync brings in what they missed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

import tiny
from longtail.params import Params
from longtail.tracking import close_parent, open_parent, server, stage_run
from longtail.tracking.__main__ import main as command
from longtail.tracking.outputs import all_outputs
from tracked import Recorded, run_pipeline, run_stage

pytest_plugins = ["tracking_fixtures"]

AWAY = "cannot be reached: the run goes on; send it later with `python -m longtail.tracking sync`."


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a fresh process for `say_once`."""
    monkeypatch.setattr("longtail.progress._said", set())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A server and its process."""

    address: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[Running]:
    """Run a real MLflow server on the folder's database; yields once it answers."""
    arguments = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/stored"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *arguments],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # starts in half the time
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(port):
            assert process.poll() is None, "the server did not start"
            time.sleep(0.1)
        yield Running(f"http://127.0.0.1:{port}", process)
    finally:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a server with its workers, as if its machine were lost."""
    if process.poll() is None:
        for part in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            part.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def sync(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run `python -m longtail.tracking sync` here; return its exit code and what it prints."""
    monkeypatch.setattr(sys, "argv", ["tracking", "sync"])
    code = command()
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_server_that_is_down_costs_a_sentence_and_sync_sends_everything_once(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    run_pipeline(params, project)
    assert capsys.readouterr().err == f"MLflow at {address} {AWAY}\n"
    assert sync(capsys, monkeypatch) == (
        1,
        f"MLflow at {address} cannot be reached. Start it, or set MLFLOW_TRACKING_URI, and try again.\n",
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    database = f"sqlite:///{project}/mlflow.db"
    names = [outputs.name for outputs in all_outputs(params)]
    assert sync(capsys, monkeypatch) == (0, f"Sent to {database}: {', '.join(names)}.\n")
    (parent,) = (recorded := Recorded.read(database)).parents
    assert parent.info.status == "FINISHED"
    assert recorded.children(parent) == {name.replace("@", " "): ["FINISHED"] for name in names}
    assert [dataset.digest for dataset in recorded.datasets(parent)] == [tiny.make_split().digest]
    assert sync(capsys, monkeypatch) == (0, f"MLflow at {database} has everything.\n")
    assert len(Recorded.read(database).runs) == len(recorded.runs)
    (project / "evaluations" / next(iter(params.methods)) / "metrics.json").write_text(
        json.dumps({"summary": {"overall": {"mean": 0.5, "std": None}}, "seeds": {}})
    )
    assert sync(capsys, monkeypatch) == (0, f"Sent to {database}: evaluate@{next(iter(params.methods))}.\n")


def test_what_was_recorded_live_is_not_sent_again(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(params, project)
    assert sync(capsys, monkeypatch) == (0, f"MLflow at sqlite:///{project}/mlflow.db has everything.\n")


def test_a_server_that_dies_meanwhile_gets_the_rest_by_sync(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split, train, *_ = all_outputs(params)
    (seed, rows), *_ = train.histories()
    with mlflow_server(project, port := free_port()) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address := running.address)
        run_stage(split, params, project)
        assert capsys.readouterr().err == ""
        with stage_run(train.stage, train.row, params, project) as run:
            run.log(seed, rows[0])
            kill(running.process)
            run._next_sending = 0.0  # as if seconds had passed
            run.log(seed, rows[1])
            run._next_sending = 0.0
            run.log(seed, rows[2])
    assert capsys.readouterr().err == f"MLflow at {address} {AWAY}\n"
    with mlflow_server(project, port):
        before = Recorded.read(address)
        assert before.named(f"train {train.row}").info.status == "RUNNING"
        code, printed = sync(capsys, monkeypatch)
        assert code == 0, printed
        (parent,) = (after := Recorded.read(address)).parents
        assert {run.info.run_id for run in before.runs} < {run.info.run_id for run in after.runs}
        assert set(after.children(parent)) == {o.name.replace("@", " ") for o in all_outputs(params)}
        child = after.named(f"train {train.row}")
        points = MlflowClient(address).get_metric_history(child.info.run_id, f"seed_{seed}/loss")
        assert [(p.step, p.value) for p in points] == [(row["epoch"], row["loss"]) for row in rows]
        assert MlflowClient(address).list_artifacts(parent.info.run_id, "plots")
        assert sync(capsys, monkeypatch) == (0, f"MLflow at {address} has everything.\n")


def test_a_server_that_never_answers_is_given_up(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        run_stage(all_outputs(params)[1], params, project)
    assert capsys.readouterr().err == f"MLflow at {address} {AWAY}\n"


def test_a_flow_without_a_server_has_no_parent_and_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert open_parent("nightly") is None
    close_parent(None, "FINISHED")
    close_parent("0" * 32, "FINISHED")
    assert capsys.readouterr().err.count(AWAY) == 1


def test_a_password_in_the_address_is_never_shown(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:p@ss@127.0.0.1:{free_port()}")
    run_stage(all_outputs(params)[0], params, project)
    said = capsys.readouterr().err
    assert "127.0.0.1" in said
    assert "p@ss" not in said
    assert "ada" not in said


def test_a_broken_database_is_named_and_the_stage_succeeds(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "mlflow.db").write_text("this is not a database, it is longer than a header of one would be" * 20)
    run_stage(all_outputs(params)[0], params, project)
    said = capsys.readouterr().err
    assert said.startswith(f"MLflow at sqlite:///{project}/mlflow.db did not take the record (")
    assert said.count("\n") == 1


# Forks two stages that miss their server. Loads server.py alone: the package takes seconds to import.
DVC = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("server", sys.argv[1])
server = sys.modules["server"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)
for _ in range(2):
    if os.fork() == 0:
        server.excuse(server.Path.cwd(), ConnectionRefusedError())
        os._exit(0)
    os.wait()
"""


def test_the_stages_of_one_dvc_command_say_it_once_and_those_of_the_next_again(project: Path) -> None:
    (project / "dvc").write_text(DVC)
    for _ in range(2):
        run = subprocess.run([sys.executable, "dvc", server.__file__], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, f"MLflow at sqlite:///{project}/mlflow.db {AWAY}\n")


def test_a_message_of_mlflow_is_shown_in_one_line_without_password() -> None:
    error = RuntimeError("API request to http://ada:p@ss@host/api failed with error code 500\nand a page of HTML")
    assert server.reason(error) == "did not take the record (API request to http://host/api failed with error code 500)"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///runs/other.db", "sqlite:///{root}/runs/other.db"),
        ("sqlite:////var/other.db", "sqlite:////var/other.db"),
        ("http://tracking:5000", "http://tracking:5000"),
    ],
)
def test_a_relative_file_belongs_to_the_root(
    variable: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert server.tracking_uri(tmp_path) == expected.format(root=tmp_path.resolve())
