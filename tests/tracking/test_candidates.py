"""A trained model becomes a version once, and what was decided about it can be read in MLflow."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectTimeout

from longtail.params import Params
from longtail.tracking import candidates
from longtail.tracking.candidates import Verdict, is_settled, log_verdict, register_trained, say_verdict
from longtail.tracking.outputs import Outputs
from longtail.tracking.registered_model import Registry, open_registry
from tracked import Recorded, run_stage

pytest_plugins = ["tracking_fixtures"]

TAGS = {candidates.DATA: "d1", candidates.RECIPE: "r1"}


@pytest.fixture
def one(params: Params) -> Params:
    """Params with one method, as a night has them."""
    method = next(iter(params.methods))
    return params.model_copy(update={"methods": {method: params.methods[method]}})


@pytest.fixture
def registry(project: Path) -> Registry:
    return open_registry(project, "nightly")


def test_what_mlflow_missed_is_sent_and_registered_once(project: Path, one: Params, registry: Registry) -> None:
    (method,) = one.methods
    first = register_trained(registry, one, project, TAGS)  # nothing was recorded before
    assert (first.number, dict(first.tags), first.aliases) == ("1", TAGS, ("challenger",))
    recorded = Recorded.read(f"sqlite:///{project}/mlflow.db")
    assert first.run == recorded.named(f"evaluate {method}").info.run_id

    again = register_trained(registry, one, project, TAGS | {candidates.RECIPE: "r2"})
    assert again.number == "1" and again.tags[candidates.RECIPE] == "r2"
    assert len(registry.versions()) == 1


def test_a_recorded_model_is_not_sent_again(project: Path, one: Params, registry: Registry) -> None:
    (method,) = one.methods
    run_stage(Outputs("evaluate", method), one, project)
    run = Recorded.read(f"sqlite:///{project}/mlflow.db").named(f"evaluate {method}").info.run_id
    assert register_trained(registry, one, project, TAGS).run == run


def test_a_decision_is_a_run_beside_the_stages_and_tags_of_the_version(
    project: Path, one: Params, registry: Registry, tmp_path: Path
) -> None:
    version = register_trained(registry, one, project, TAGS)
    assert not is_settled(version)
    file = tmp_path / "inventory.csv"
    file.write_text("sha256\n")
    verdict = Verdict("refused", "few-shot fell", "# report", {"few.difference": -0.12}, {"promote": False}, (file,))
    run = log_verdict(registry.server, version, one, verdict)
    say_verdict(registry, version, "refused", "few-shot fell")

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    logged = client.get_run(run)
    assert (logged.info.run_name, logged.info.status) == ("gate v1: refused", "FINISHED")
    assert logged.data.metrics == {"few.difference": -0.12}
    assert logged.data.tags["mlflow.parentRunId"] == client.get_run(version.run).data.tags["mlflow.parentRunId"]
    assert logged.data.tags[candidates.REASON] == "few-shot fell"
    folder = Path(client.download_artifacts(run, "", str(tmp_path)))
    assert (folder / "decision.md").read_text() == "# report"
    assert json.loads((folder / "decision.json").read_text()) == {"promote": False}
    assert (folder / "inventory.csv").exists()
    assert client.get_model_version("nightly", version.number).description == "few-shot fell"
    (told,) = registry.versions()
    assert is_settled(told) and told.tags[candidates.REASON] == "few-shot fell"
    assert not is_settled(replace(told, tags={**told.tags, candidates.DECISION: candidates.PASSED}))


def test_only_trouble_with_mlflow_is_called_so(project: Path) -> None:
    for error in (MlflowException("bad request"), ConnectTimeout("timed out"), ConnectionResetError(104, "reset")):
        said = candidates.trouble_with_mlflow(project, error)
        assert said is not None and said.startswith("MLflow at sqlite:///")
    for mistake in (KeyError("x"), ValueError("y"), AssertionError()):
        assert candidates.trouble_with_mlflow(project, mistake) is None
