import signal

import pytest
from dvc.lock import FAILED_TO_LOCK_MESSAGE
from dvc.stage.exceptions import MissingDataSource, StageCmdFailedError

from pipelines.failures import PipelineError, TransientError, UserError, failure_of
from pipelines.processes import Finished


def dvc_says(reason: Exception | str, said: str = "") -> Finished:
    """How dvc reports a failed stage: its own 255 and the reason in words."""
    return Finished(255, f"{said}\nERROR: failed to reproduce 'train@ce': {reason}\n")


def exited(status: int, said: str = "") -> Finished:
    return dvc_says(StageCmdFailedError("PYTHONPATH=src python -m longtail.stages.train ce", status), said)


def test_success_is_no_failure() -> None:
    assert failure_of(Finished(0, "ERROR: failed to reproduce 'x': failed to run: y, exited with 2"), "x") is None


def test_a_users_mistake_keeps_the_stages_own_sentence() -> None:
    failure = failure_of(exited(2, "train: plan.lr is 0. Set it above 0."), "train@ce")
    assert type(failure) is UserError
    assert failure.exit_code == 2
    assert str(failure) == "train@ce refused its input: train: plan.lr is 0. Set it above 0."


def test_missing_data_is_the_users_to_mend() -> None:
    failure = failure_of(dvc_says(MissingDataSource(["data/raw/photos"])), "split")
    assert type(failure) is UserError
    assert "data/raw/photos" in str(failure)


@pytest.mark.parametrize("status", [-signal.SIGKILL, 128 + signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGSEGV])
def test_a_killed_stage_is_transient(status: int) -> None:
    assert type(failure_of(exited(status), "train@ce")) is TransientError


def test_a_killed_dvc_is_transient() -> None:
    assert type(failure_of(Finished(-9, "Running stage 'train@ce':"), "train@ce")) is TransientError


@pytest.mark.parametrize(
    "reason", [FAILED_TO_LOCK_MESSAGE, "'models/ce' is busy, it is being blocked by:", "[Errno 5] Input/output error"]
)
def test_locks_and_disks_are_transient(reason: str) -> None:
    assert type(failure_of(dvc_says(reason), "train@ce")) is TransientError


@pytest.mark.parametrize("status", [1, 3, 127, -signal.SIGINT, 128 + signal.SIGINT])
def test_another_exit_code_is_not_tried_again(status: int) -> None:
    failure = failure_of(exited(status), "train@ce")
    assert type(failure) is PipelineError
    assert failure.exit_code == 1


def test_a_mistake_beside_words_of_a_passing_trouble_stays_a_mistake() -> None:
    assert type(failure_of(exited(2, "database is locked"), "train@ce")) is UserError


def test_a_timeout_is_not_tried_again() -> None:
    failure = failure_of(Finished(-9, "", timed_out=True), "train@ce")
    assert type(failure) is PipelineError
    assert "took too long" in str(failure)


def test_a_silent_failure_still_says_something() -> None:
    assert str(failure_of(Finished(1, ""), "split")) == "split failed with exit code 1: it said nothing"
