"""Servers that die, hang, crawl or cannot store: the training ends with the same bits, and MLflow gets everything."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from clones import Clone
from crawling import Crawling
from longtail.tracking.stage import PAUSE
from remote_project import EPOCHS, METHOD, STAGES, copy_of
from running import free_port, suspended
from servers import S3, MLflow, PostgreSQL

pytest_plugins = ["remote_fixtures"]
pytestmark = pytest.mark.services

AWAY = "the run goes on; send it later with `python -m longtail.tracking sync`."
TRAIN = ("python", "-m", "longtail.stages.train", "gradual")
SYNC = ("python", "-m", "longtail.tracking", "sync")
WEIGHTS = Path("models", "gradual", "seed_0", "weights.safetensors")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL, s3: S3) -> Iterator[MLflow]:
    """An MLflow server of these tests' own, on the database and the bucket that all share."""
    with MLflow(tmp_path_factory.mktemp("mlflow"), postgresql, s3) as running:
        yield running


@pytest.fixture
def frail(own_server: MLflow) -> MLflow:
    """That server, up whatever the test before has done to it."""
    if not own_server.is_ready():
        own_server.kill()
        own_server.start()
    return own_server


@pytest.fixture
def clone(remote: Clone, frail: MLflow, tmp_path: Path) -> Clone:
    """A copy of the finished clone, recorded in an experiment of its own."""
    return copy_of(remote, tmp_path, frail.address)


class Recorded:
    """What an experiment holds."""

    def __init__(self, server: MLflow, clone: Clone) -> None:
        self.client = MlflowClient(server.address)
        self.experiment = self.client.get_experiment_by_name(clone.environment["MLFLOW_EXPERIMENT_NAME"])

    def runs(self, name: str) -> list[Run]:
        """Return all runs of a stage."""
        found = self.client.search_runs([self.experiment.experiment_id]) if self.experiment else []
        return [run for run in found if run.data.tags.get("longtail.stage") == name]

    def epochs(self) -> list[int]:
        """Return the epochs of the training's losses, as they arrived."""
        (run,) = self.runs("train@gradual")
        return [point.step for point in self.client.get_metric_history(run.info.run_id, "seed_0/loss")]

    def check(self, stages: list[str]) -> None:
        """Every stage has one finished run with its parameters; every epoch is there once; so are model and metrics."""
        runs = {name: self.runs(name) for name in stages}
        assert {name: [run.info.status for run in found] for name, found in runs.items()} == {
            name: ["FINISHED"] for name in stages
        }
        assert all(found[0].data.params["seeds"] == "[0]" for found in runs.values())
        assert sorted(self.epochs()) == list(range(EPOCHS))
        models = []
        for (run,) in (found for name, found in runs.items() if name.startswith("evaluate@")):
            points = self.client.get_metric_history(run.info.run_id, "overall")
            assert [point.value for point in points] == [run.data.metrics["overall"]]
            assert run.outputs is not None
            (model,) = run.outputs.model_outputs
            models.append(model.model_id)
        assert sorted(models) == self.models()

    def models(self) -> list[str]:
        """Return the models that are ready, sorted."""
        assert self.experiment is not None
        found = self.client.search_logged_models([self.experiment.experiment_id])
        return sorted(str(model.model_id) for model in found if model.status == "READY")


def wait_for_epochs(server: MLflow, clone: Clone, process: "subprocess.Popen[str]") -> int:
    """Wait until MLflow holds some epochs of a training, and return how many."""
    while process.poll() is None:
        now = Recorded(server, clone)
        if now.runs("train@gradual") and (epochs := now.epochs()):
            assert len(epochs) < EPOCHS, "the training was too short"
            return len(epochs)
        time.sleep(0.05)
    raise AssertionError(f"the training ended first: {process.communicate()[0]}")


def read_until(process: "subprocess.Popen[str]", said: str) -> str:
    """Read what a process prints up to a line that holds `said`."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if said in line:
            return printed
    raise AssertionError(f"it never said '{said}':\n{printed}")


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a process to succeed and return the rest of what it prints."""
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def test_a_server_killed_while_training_and_started_again_gets_everything_once(
    remote: Clone, clone: Clone, frail: MLflow
) -> None:
    process = clone.start("dvc", "repro", "--force")
    wait_for_epochs(frail, clone, process)
    with suspended(process.pid):
        frail.kill()
        time.sleep(PAUSE)  # the next sending is due
    printed = read_until(process, AWAY)
    with suspended(process.pid):
        assert not (clone.folder / WEIGHTS).exists(), "the training was too short"
        frail.start()
        assert 0 < len(Recorded(frail, clone).epochs()) < EPOCHS
    printed += finish(process)
    assert printed.count("MLflow at") == 1
    assert f"MLflow at {frail.address} cannot be reached: {AWAY}" in printed
    assert (clone.folder / WEIGHTS).read_bytes() == (remote.folder / WEIGHTS).read_bytes()
    Recorded(frail, clone).check(STAGES)
    assert "has everything" in clone.run(*SYNC)


def test_a_server_that_hangs_meanwhile_holds_up_nothing(remote: Clone, frail: MLflow, tmp_path: Path) -> None:
    clone = copy_of(remote, tmp_path, frail.address, "classifiers", "evaluations", "reports")
    process = clone.start(*TRAIN)
    wait_for_epochs(frail, clone, process)
    with suspended(frail.pid):
        assert finish(process).count(f"MLflow at {frail.address} cannot be reached: {AWAY}") == 1
        assert (clone.folder / WEIGHTS).read_bytes() == (remote.folder / WEIGHTS).read_bytes()
    assert clone.run(*SYNC) == f"Sent to {frail.address}: {', '.join(STAGES[:3])}.\n"
    Recorded(frail, clone).check(STAGES[:3])


def test_a_slow_server_gets_the_epochs_together(remote: Clone, frail: MLflow, tmp_path: Path) -> None:
    with Crawling(frail.port, seconds=0.5) as slow:
        clone = copy_of(remote, tmp_path, slow.address)
        assert "MLflow at" not in clone.run(*TRAIN)
        sent = slow.requests.count("POST /api/2.0/mlflow/runs/log-batch")
    assert 0 < sent < EPOCHS // 2
    Recorded(frail, clone).check(["train@gradual"])


def test_a_store_that_is_down_costs_the_model_a_sentence_until_sync(
    clone: Clone, frail: MLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    frail.kill()
    with monkeypatch.context() as patch:
        patch.setitem(frail.composed.environment, "MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        frail.start()
        printed = clone.run("python", "-m", "longtail.stages.evaluate", METHOD)
        assert printed.count(f"MLflow at {frail.address} ") == 1 and AWAY in printed
        frail.kill()
    frail.start()
    assert f"evaluate@{METHOD}" in clone.run(*SYNC)
    Recorded(frail, clone).check(STAGES)
