"""Nights that end before any training; those that train are in tests/services."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State

import photos
from longtail.retraining.inventory import hold
from longtail.tracking.registered_model import open_registry
from pipelines.failures import PipelineError, UserError
from pipelines.retrain import main, retrain

pytest_plugins = ["pipeline_fixtures", "nightly_fixtures"]
pytestmark = pytest.mark.usefixtures("prefect_server")


def night(root: Path, **options: Any) -> State[Any]:
    state: State[Any] = retrain(str(root), return_state=True, **options)
    return state


def artifacts(state: State[Any]) -> list[str]:
    async def ask() -> list[str]:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        async with get_client() as client:
            return [str(found.data) for found in await client.read_artifacts(artifact_filter=wanted)]

    return asyncio.run(ask())


def assert_refused(state: State[Any], *words: str) -> None:
    """It failed by the user's fault, in a sentence with these words."""
    assert state.is_failed() and isinstance(state.result(raise_on_failure=False), UserError), state
    for word in words:
        assert word in str(state.message)


def test_a_dry_run_says_what_it_would_do(root: Path) -> None:
    state = night(root, dry_run=True)
    assert (
        state.name == "Dry run"
        and state.message == "It would retrain, since there is no model yet. The images are valid."
    )
    (report,) = artifacts(state)
    assert "| ant | 0 | 12 | 12 | 0 |" in report
    assert not (root / ".longtail" / "retrain" / "longtail" / "data" / "split").exists()


def test_images_that_cannot_be_right_are_refused_before_any_training(root: Path) -> None:
    mine = root / "data" / "raw" / "mine"
    (mine / "ant" / "broken.png").write_bytes(b"not an image")
    shutil.copy(sorted((mine / "ant").glob("*.jpg"))[0], mine / "bee" / "copy.jpg")
    state = night(root)
    assert_refused(state, "ant/broken.png", "the same image under two classes")
    (report,) = artifacts(state)
    assert "ant/broken.png" in report and "copy.jpg" in report and "| bee |" in report
    assert not (root / ".longtail" / "retrain" / "longtail" / "data" / "split").exists()


def test_a_folder_of_images_that_is_gone_names_the_parameter(root: Path) -> None:
    shutil.rmtree(root / "data" / "raw" / "mine")
    assert_refused(night(root), "data.path: no such folder")


def test_a_folder_that_goes_between_the_check_and_the_training_ends_the_night(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(*arguments: Any) -> str:
        shutil.rmtree(root / "data" / "raw" / "mine")
        return hold(*arguments)

    monkeypatch.setattr("pipelines.retrain.hold", go)
    assert_refused(night(root), "data.path: no such folder")
    assert open_registry(root, "longtail").versions() == []


def test_images_that_change_while_the_model_is_trained_make_it_nobodys(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        photos.write_photos(root / "data" / "raw" / "mine", {"bee": 1}, first=500)

    monkeypatch.setattr("pipelines.retrain.run_graph", train)
    assert_refused(night(root), "The images changed while the model was trained", "Run it again")
    assert open_registry(root, "longtail").versions() == []


def test_a_server_that_is_away_ends_the_night(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    state = night(root)
    assert_refused(state, "MLflow at http://127.0.0.1:9 cannot be reached", "Start it, or set MLFLOW_TRACKING_URI")
    assert "secret" not in str(state.message)


def test_without_tracking_there_is_no_registry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    assert_refused(night(root), "LONGTAIL_TRACKING is off")


def test_params_that_do_not_hold_are_refused(root: Path) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["retrain"]["gate"]["confidence"] = 95
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert_refused(night(root), "retrain.gate.confidence", "95")


def test_the_command_line_says_the_sentence_and_exits_with_2(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["retrain", "--data", "nowhere"])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("data.path: no such folder")
    monkeypatch.setattr("sys.argv", ["retrain", "--dry-run"])
    assert main() == 0
    assert "It would retrain" in capsys.readouterr().out


def test_a_failure_is_one_that_tells(root: Path) -> None:
    assert [hook.__name__ for hook in retrain.on_failure_hooks] == ["tell_failure"]
    assert [hook.__name__ for hook in retrain.on_crashed_hooks] == ["tell_failure"]
    assert issubclass(UserError, PipelineError)
