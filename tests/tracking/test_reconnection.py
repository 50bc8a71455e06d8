"""A server that was away gets what it missed, once: while the stage runs, and when it ends."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from longtail.params import Params
from longtail.tracking import runs, server, stage_run
from longtail.tracking.outputs import Outputs, all_outputs
from longtail.tracking.server import Server
from longtail.tracking.stage import StageRun
from tracked import EPOCHS, Recorded, run_stage

pytest_plugins = ["tracking_fixtures"]

LOG_PARAMS = runs.log_params


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a fresh process for `say_once`."""
    monkeypatch.setattr("longtail.progress._said", set())


@pytest.fixture
def train(params: Params) -> Outputs:
    """The stage that trains the representation."""
    return all_outputs(params)[1]


def uri(project: Path) -> str:
    return f"sqlite:///{project / 'mlflow.db'}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def log_late(run: StageRun, seed: int, row: Mapping[str, float]) -> None:
    """Log an epoch that took so long that the next sending is due."""
    run._next_sending = 0.0
    run.log(seed, row)


def steps(project: Path, name: str, metric: str) -> list[int]:
    run = Recorded.read(uri(project)).named(name)
    return sorted(point.step for point in MlflowClient(uri(project)).get_metric_history(run.info.run_id, metric))


def test_a_server_that_is_back_gets_the_epochs_while_the_stage_runs(
    project: Path, params: Params, train: Outputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (seed, rows), *_ = train.histories()
    away = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
    with stage_run(train.stage, train.row, params, project) as run:
        run.log(seed, rows[0])  # too early to try again
        log_late(run, seed, rows[1])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(project))
        run.log(seed, rows[2])
        assert not Recorded.read(uri(project)).runs
        log_late(run, seed, rows[3])
        assert steps(project, f"train {train.row}", f"seed_{seed}/loss") == [0, 1, 2, 3]
    assert steps(project, f"train {train.row}", f"seed_{seed}/loss") == list(range(EPOCHS))
    said = capsys.readouterr().err
    assert said.startswith(f"MLflow at {away} cannot be reached: ") and said.count("\n") == 1


def test_a_stage_that_fails_after_its_server_was_away_is_failed(
    project: Path, params: Params, train: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (seed, rows), *_ = train.histories()
    with (
        pytest.raises(ValueError, match="diverged"),
        stage_run(train.stage, train.row, params, project) as run,
    ):
        run.log(seed, rows[0])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_port())
        run._record = None  # as after a sending that failed
        log_late(run, seed, rows[1])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(project))
        raise ValueError("diverged")
    assert Recorded.read(uri(project)).named(f"train {train.row}").info.status == "FAILED"
    assert steps(project, f"train {train.row}", f"seed_{seed}/loss") == [0, 1]


def test_an_epoch_of_which_the_server_took_a_part_is_completed(project: Path, params: Params, train: Outputs) -> None:
    (seed, rows), *_ = train.histories()
    with pytest.raises(KeyboardInterrupt), stage_run(train.stage, train.row, params, project) as run:
        run.log(seed, rows[0])
        raise KeyboardInterrupt
    child = Recorded.read(uri(project)).named(f"train {train.row}")
    half = Metric(f"seed_{seed}/loss", rows[1]["loss"], 0, 1)
    MlflowClient(uri(project)).log_batch(child.info.run_id, metrics=[half])
    run_stage(train, params, project)
    for metric in ("loss", "lr"):
        assert steps(project, f"train {train.row}", f"seed_{seed}/{metric}") == list(range(EPOCHS))


@pytest.mark.parametrize("call", [1, 2], ids=["of the parent", "of the stage"])
def test_parameters_that_a_dying_server_did_not_take_are_sent_later(
    project: Path, params: Params, train: Outputs, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0

    def dying(server: Server, run: str, named: Mapping[str, str]) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise ConnectionResetError
        LOG_PARAMS(server, run, named)

    monkeypatch.setattr(runs, "log_params", dying)
    run_stage(train, params, project)
    (parent,) = (recorded := Recorded.read(uri(project))).parents
    assert recorded.children(parent) == {f"train {train.row}": ["FINISHED"]}
    assert parent.data.params["plan.lr"] == str(params.plan.lr)
    child = recorded.named(f"train {train.row}")
    assert child.data.params["loss.name"] == params.representations[train.row].loss.name


def test_results_that_a_run_shows_already_are_not_sent_again(project: Path, params: Params) -> None:
    outputs = Outputs("evaluate", next(iter(params.methods)))
    run_stage(outputs, params, project)
    run = Recorded.read(uri(project)).named(f"evaluate {outputs.row}")
    client = MlflowClient(uri(project))
    reached = server.connect(project)
    runs.log_results(reached, run.info.run_id, outputs.final_metrics() | {"overall": 0.125})
    assert len(client.get_metric_history(run.info.run_id, "overall")) == 2
    others = [name for name in outputs.final_metrics() if name != "overall"]
    assert {len(client.get_metric_history(run.info.run_id, name)) for name in others} == {1}
