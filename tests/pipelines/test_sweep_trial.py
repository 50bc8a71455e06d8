import os
from pathlib import Path

import pytest

from pipelines.sweep_plan import plan_sweep
from pipelines.sweep_trial import read_outcome, threads_of, timestamp
from small_project import REPOSITORY


@pytest.mark.parametrize("jobs", [1, 2, 10_000])
def test_trials_share_the_cores(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = int(threads_of(jobs)["OMP_NUM_THREADS"])
    cores = len(os.sched_getaffinity(0))
    assert threads >= 1 and threads * jobs <= max(cores, jobs)
    assert jobs > cores or (threads + 1) * jobs > cores


def test_who_has_set_the_threads_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads_of(2) == {"OMP_NUM_THREADS": "7"}


def test_a_trial_without_an_outcome_has_failed(tmp_path: Path) -> None:
    (trial,) = plan_sweep(REPOSITORY / "params.yaml", ["seeds=[4]"]).trials
    outcome = read_outcome(trial, tmp_path)
    assert (outcome.state, outcome.settings, outcome.seeds) == ("failed", {"seeds": "[4]"}, (4,))
    assert "broke down" in outcome.reason and not outcome.validation


def test_times_are_written_in_utc() -> None:
    assert timestamp(86400.4) == "1970-01-02T00:00:00+00:00"
