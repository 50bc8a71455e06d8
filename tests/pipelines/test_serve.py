"""What is served on a schedule, and what is refused before it is."""

import shutil
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.settings import temporary_settings as with_settings

from clones import ROOT
from pipelines.failures import UserError
from pipelines.retrain import retrain
from pipelines.serve import check_server, deployment, main

pytest_plugins = ["pipeline_fixtures"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose params.yaml retrains an image folder."""
    shutil.copy(ROOT / "benchmarks" / "own_images.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_one_runs_at_a_time_and_a_second_waits(root: Path) -> None:
    made = deployment(root, "nightly", "0 3 * * *", "Europe/Berlin", "images", 90)
    assert made.concurrency_limit == 1
    assert made.concurrency_options is not None and made.concurrency_options.collision_strategy == "ENQUEUE"
    (schedule,) = made.schedules or []
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")  # type: ignore[union-attr]
    assert made.parameters == {"root": str(root), "data": "images", "stage_timeout_minutes": 90}


@pytest.mark.parametrize(
    ("cron", "zone", "words"),
    [
        ("every night", "UTC", "--cron is 'every night', which is no cron string"),
        ("99 3 * * *", "UTC", "--cron is '99 3"),
        ("0 3 * * *", "Mars/Olympus", "--timezone is 'Mars/Olympus'"),
    ],
)
def test_a_schedule_that_is_none_is_refused(root: Path, cron: str, zone: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("*", r"\*")):
        deployment(root, "nightly", cron, zone, None, None)


def test_two_schedules_for_one_deployment_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["serve", "--cron", "0 3 * * *", "--cron", "0 4 * * *"])
    assert main() == 2
    assert "--cron was given 2 times" in capsys.readouterr().err


def test_a_server_must_be_named_and_answer() -> None:
    with with_settings({PREFECT_API_URL: None}), pytest.raises(UserError, match="PREFECT_API_URL is not set"):
        check_server("nightly")
    with (
        with_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(UserError, match="no Prefect server answers there"),
    ):
        check_server("nightly")


@pytest.mark.usefixtures("prefect_server")
def test_a_deployment_that_workers_run_has_its_schedule() -> None:
    check_server("nightly")
    with get_client(sync_client=True) as client:
        from prefect.client.schemas.actions import WorkPoolCreate

        client.create_work_pool(WorkPoolCreate(name="longtail", type="process"))
        flow = client.create_flow_from_name(retrain.name)
        client.create_deployment(flow, "nightly", work_pool_name="longtail")
    with pytest.raises(UserError, match="is run by the work pool longtail already, so it would have two schedules"):
        check_server("nightly")
    check_server("another")


def test_prefect_yaml_deploys_what_the_flow_takes() -> None:
    (described,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert described["entrypoint"] == "pipelines/retrain.py:retrain"
    assert set(described["parameters"]) == set(retrain.parameters.properties)
    assert described["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
