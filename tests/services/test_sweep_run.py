"""A sweep that trains: real networks on digits, by Dask; tests/pipelines/test_sweep.py does without training."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from clones import Clone, shrink

pytestmark = pytest.mark.services

BETA = "methods.glag.balancer.beta_0"
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


def sweep(digits: Clone, prefect_url: str, name: str, *words: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Run a sweep over glag, two trials at a time; return its trials and the lines of their logs."""
    command = ["python", "-m", "pipelines.sweep", "params.yaml", "--methods", "glag", "--jobs", "2", *words]
    digits.run(*command, PREFECT_API_URL=prefect_url)
    logs = [file.read_text() for file in (digits.folder / ".longtail" / "sweeps" / name).glob("*.log")]
    content = json.loads((digits.folder / "benchmarks" / "results" / name / "sweep.json").read_text())
    assert [trial["state"] for trial in content["trials"]] == ["finished"] * len(logs) == ["finished"] * 2
    return content["trials"], [line for log in logs for line in log.splitlines()]


def test_real_networks_two_at_a_time_and_nothing_trained_twice(digits: Clone, prefect_url: str) -> None:
    by_seed = ("--grid", "seeds=[0],[1]", "--runner", "dask", "--test")
    trials, lines = sweep(digits, prefect_url, "sweep-params-seeds=0,1-glag", *by_seed)
    spans = [tuple(datetime.fromisoformat(trial[end]).timestamp() for end in ("started", "ended")) for trial in trials]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2
    assert (lines.count(STAGE_ONE), lines.count(STAGE_TWO)) == (2, 2)
    for trial in trials:
        numbers = trial["validation"]["glag"]
        assert 0 <= numbers["few"]["mean"] <= 1 and numbers["overall"]["n"] == 1
        assert numbers != trial["test (not to choose by)"]["glag"]

    by_beta = ("--grid", f"{BETA}=0.2,0.4", "--runner", "threads", "--score", "few")
    others, lines = sweep(digits, prefect_url, "sweep-params-beta_0=0.2,0.4-glag", *by_beta)
    assert (lines.count(STAGE_ONE), lines.count(STAGE_TWO)) == (0, 2)  # beta_0 is none of stage one's numbers
    assert others[0]["validation"] != trials[0]["validation"]
