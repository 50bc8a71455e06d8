"""One trial of a sweep: the graph in a clone of its own, its log, and what came of it in a file.

Trials run side by side in threads of one process; each is a dvc command in a session of its own. `stop` ends them all.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipelines.clone import clone_of
from pipelines.failures import PipelineError, failure_of
from pipelines.processes import GRACE, Sink, run
from pipelines.repro import DVC
from pipelines.sweep_plan import Trial

SCORES = Path(__file__).with_name("sweep_scores.py")  # run as a file: the clone's commit may be older than it
NOTHING: dict[str, Any] = {"validation": {}, "test": {}}
PAUSE = 0.1  # seconds between two looks at what still runs

_stopping = threading.Event()
_running: set[str] = set()


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Args:
        settings: KEY -> value as it was typed.
        method: the row that it kept, or None.
        state: finished, failed or stopped.
        reason: why it failed, in a sentence; "" otherwise.
        started, ended: seconds since 1970.
        validation, test: method -> metric -> {mean, std, n}; a method without validation images has None.
    """

    name: str
    settings: dict[str, str]
    method: str | None
    seeds: tuple[int, ...]
    state: str
    reason: str
    started: float
    ended: float
    validation: dict[str, Any]
    test: dict[str, Any]


def threads_of(jobs: int) -> dict[str, str]:
    """Return environment variables that divide this machine's cores among `jobs` trials, unless the user has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))}


def run_trial(root: Path, trial: Trial, folder: Path, extra: Mapping[str, str]) -> Outcome:
    """Train a trial in its clone and measure it; failures become part of the outcome.

    Args:
        root: the repository.
        folder: gets NAME.log, to watch, and NAME.json, the outcome.
        extra: environment variables for the stages.
    """
    started, state, reason, found = time.time(), "stopped", "", NOTHING
    if not _stopping.is_set():
        with _counted(trial.name), (folder / f"{trial.name}.log").open("wb", buffering=0) as log:
            state, reason, found = _attempt(root, trial, log.write, {**extra, "LONGTAIL_HOME": str(root)})
    settings = dict(word.split("=", 1) for word in trial.words)
    ended = time.time()
    outcome = Outcome(trial.name, settings, trial.method, trial.seeds, state, reason, started, ended, **found)
    (folder / f"{trial.name}.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


def read_outcome(trial: Trial, folder: Path) -> Outcome:
    """Read what `run_trial` wrote; a trial that came to no end of its own has failed."""
    file, words = folder / f"{trial.name}.json", dict(word.split("=", 1) for word in trial.words)
    if not file.exists():
        reason, now = "it broke down before its end; the lines above say where", time.time()
        return Outcome(trial.name, words, trial.method, trial.seeds, "failed", reason, now, now, {}, {})
    content = json.loads(file.read_text())
    return Outcome(**{**content, "seeds": tuple(content["seeds"])})


def _attempt(root: Path, trial: Trial, log: Sink, extra: Mapping[str, str]) -> tuple[str, str, dict[str, Any]]:
    try:
        with clone_of(root, trial.variant) as clone:
            found = _train(clone, log, extra)
    except (PipelineError, OSError) as failure:  # OSError: a full disk stops one trial, not the others
        return ("stopped", "", NOTHING) if _stopping.is_set() else ("failed", str(failure), NOTHING)
    return "finished", "", found


def _train(clone: Path, log: Sink, extra: Mapping[str, str]) -> dict[str, Any]:
    scores = clone / ".longtail" / "validation.json"
    scores.parent.mkdir(exist_ok=True)
    commands = {
        "dvc repro": [*DVC, "repro"],
        "validation": [sys.executable, "-P", str(SCORES), str(scores)],
    }
    for what, command in commands.items():
        if failure := failure_of(run(command, clone, log, extra=extra), what):
            raise failure
    validation = json.loads(scores.read_text())
    tested = {method: clone / "evaluations" / method / "metrics.json" for method in validation}
    test = {method: json.loads(file.read_text())["summary"] for method, file in tested.items()}
    return {"validation": validation, "test": test}


@contextmanager
def _counted(name: str) -> Iterator[None]:
    _running.add(name)
    try:
        yield
    finally:
        _running.discard(name)


def stop() -> None:
    """End every trial: none starts any more, those that run are interrupted, and killed if they do not end."""
    _stopping.set()
    until, told = time.monotonic() + GRACE, set[int]()
    while _running:
        for child in _sessions():
            if child not in told:
                _signal(child, signal.SIGINT)  # once: dvc takes a second one for impatience
                told.add(child)
            elif time.monotonic() > until:
                _signal(child, signal.SIGKILL)
        time.sleep(PAUSE)


def _sessions() -> list[int]:
    """List our children that lead a session of their own: what pipelines.processes has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(ProcessLookupError):
            if os.getsid(child.pid) == child.pid:
                found.append(child.pid)
    return found


def _signal(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def timestamp(seconds: float) -> str:
    """Write seconds since 1970 as people read them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
