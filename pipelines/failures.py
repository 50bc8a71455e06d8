"""Why a DVC command failed: whose fault it is, and whether another try can help."""

import re
import signal

from pipelines.processes import Finished

STAGE_STATUS = re.compile(r"^ERROR: failed to reproduce .*, exited with (-?\d+)$", re.MULTILINE)
USER_ERROR = 2  # what our stages exit with for what a user can mend
MISSING_DATA = re.compile(r"^ERROR: .*missing data 'source", re.MULTILINE)
# What passes by itself: another DVC process at work, a disk or a remote that hiccups.
PASSING = (
    "Unable to acquire lock",
    "is busy, it is being blocked by",
    "database is locked",
    "[Errno 5] Input/output error",
    "[Errno 11] Resource temporarily unavailable",
    "[Errno 116] Stale file handle",
)


class PipelineError(Exception):
    """A DVC command that failed; trying again would not help."""

    exit_code = 1


class UserError(PipelineError):
    """A failure that the user can mend; the stage has said how."""

    exit_code = USER_ERROR


class TransientError(PipelineError):
    """A failure that may pass by itself: killed by a signal, a lock, a disk."""


def failure_of(finished: Finished, what: str) -> PipelineError | None:
    """Classify how a DVC command ended.

    Args:
        what: names the work in the message, such as a stage.
    """
    if finished.timed_out:
        return PipelineError(f"{what} took too long and was stopped.")
    if finished.code == 0:
        return None
    status = _stage_status(finished)
    if status == USER_ERROR or MISSING_DATA.search(finished.output):
        return UserError(f"{what} refused its input: {_last_words(finished.output)}")
    killer = _killer(status)
    if killer is not None and killer != signal.SIGINT:
        return TransientError(f"{what} was killed by signal {killer.value} ({killer.name}).")
    kind = TransientError if any(words in finished.output for words in PASSING) else PipelineError
    return kind(f"{what} failed with exit code {status}: {_last_words(finished.output)}")


def _stage_status(finished: Finished) -> int:
    """Return the status of the stage's command, which DVC turns into its own 255."""
    reported = STAGE_STATUS.findall(finished.output)
    return int(reported[-1]) if reported else finished.code


def _killer(status: int) -> signal.Signals | None:
    """Return the signal behind an exit status: Python's -9 and the shell's 137 are both SIGKILL."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number) if number in set(signal.Signals) else None


def _last_words(output: str) -> str:
    """Return the last line that is not DVC's own summary: there the stage says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]
    return (own or lines or ["it said nothing"])[-1]
