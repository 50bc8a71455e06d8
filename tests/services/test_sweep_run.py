"""A sweep that trains: real networks on digits, by Dask; tests/pipelines/test_sweep.py does without training."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from clones import Clone, shrink

pytestmark = pytest.mark.services

BETA = "methods.glag.balancer.beta_0"
NAME = "sweep-params-beta_0=0.2,0.4-glag"
STAGE_ONE, STAGE_TWO = "Running stage 'train@gradual':", "Running stage 'finetune@glag':"


@pytest.fixture
def digits(tmp_path: Path) -> Clone:
    """A committed copy of this repository with a small params.yaml."""
    made = Clone(tmp_path)
    params = made.params()
    shrink(params)
    params["retrain"] = None
    made.write_params(params)
    made.commit()
    return made


@pytest.fixture
def prefect_url() -> Iterator[str]:
    """Address of a Prefect server of this test's own."""
    with prefect_test_harness():
        yield PREFECT_API_URL.value()


def test_real_networks_train_stage_one_once_for_every_beta(digits: Clone, prefect_url: str) -> None:
    grid = ("--methods", "glag", "--grid", f"{BETA}=0.2,0.4", "--jobs", "2", "--runner", "dask", "--test")
    digits.run("python", "-m", "pipelines.sweep", "params.yaml", *grid, PREFECT_API_URL=prefect_url)
    logs = [file.read_text() for file in (digits.folder / ".longtail" / "sweeps" / NAME).glob("*.log")]
    lines = [line for log in logs for line in log.splitlines()]
    trials = json.loads((digits.folder / "benchmarks" / "results" / NAME / "sweep.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 2 == ["finished"] * len(logs)
    assert (lines.count(STAGE_ONE), lines.count(STAGE_TWO)) == (1, 2)  # beta_0 is none of stage one's numbers
    for trial in trials:
        numbers = trial["validation"]["glag"]
        assert 0 <= numbers["few"]["mean"] <= 1 and numbers["overall"]["n"] == 1
        assert numbers != trial["test (not to choose by)"]["glag"]
