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
NAME = "sweep-params-beta_0=0.2,0.4-seeds=0,1-glag"


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


def sweep(digits: Clone, prefect_url: str, *words: str) -> tuple[dict[str, Any], list[str]]:
    """Run the sweep and return sweep.json and the logs of its trials."""
    grids = ["--grid", f"{BETA}=0.2,0.4", "--grid", "seeds=[0],[1]", "--methods", "glag"]
    command = ["python", "-m", "pipelines.sweep", "params.yaml", *grids, "--jobs", "2", *words]
    digits.run(*command, PREFECT_API_URL=prefect_url)
    logs = [file.read_text() for file in (digits.folder / ".longtail" / "sweeps" / NAME).glob("*.log")]
    content = json.loads((digits.folder / "benchmarks" / "results" / NAME / "sweep.json").read_text())
    return content, logs


def test_real_networks_two_at_a_time_and_nothing_trained_twice(digits: Clone, prefect_url: str) -> None:
    first, logs = sweep(digits, prefect_url, "--runner", "dask", "--test")
    trials = first["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 4
    spans = [tuple(datetime.fromisoformat(trial[end]).timestamp() for end in ("started", "ended")) for trial in trials]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2
    trained = [line for log in logs for line in log.splitlines() if line == "Running stage 'train@gradual':"]
    assert len(logs) == 4 and len(trained) == 2  # once per seed: beta_0 is none of stage one's numbers
    for trial in trials:
        numbers = trial["validation"]["glag"]
        assert 0 <= numbers["few"]["mean"] <= 1 and numbers["overall"]["n"] == 1
        assert numbers != trial["test (not to choose by)"]["glag"]

    second, logs = sweep(digits, prefect_url, "--runner", "threads", "--score", "few")
    assert [trial["validation"] for trial in second["trials"]] == [trial["validation"] for trial in trials]
    assert not [log for log in logs if "Running stage" in log]
