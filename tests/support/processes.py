"""Fresh processes for the tests of tracking, forked from one that has imported longtail (seconds) but not mlflow.

The functions here run in those processes; so this file must not import mlflow either.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from longtail.params import load_params
from longtail.tracking import stage_run
from longtail.tracking.outputs import all_outputs
from longtail.tracking.server import connect
from longtail.workspace import home

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["longtail.tracking"])


def run_all(function: Callable[[], None], folder: Path, count: int = 1, **variables: str) -> list[tuple[int, str]]:
    """Run a function in `count` processes at once, in a folder; return their exit codes and what they print."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | variables
    files = [folder / f"{function.__name__}.{i}.txt" for i in range(count)]
    processes = [CONTEXT.Process(target=_run, args=(function, folder, environment, file)) for file in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [(process.exitcode or 0, file.read_text()) for process, file in zip(processes, files, strict=True)]


def _run(function: Callable[[], None], folder: Path, environment: dict[str, str], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    function()


def train_and_die() -> None:
    """Train two epochs, then die as in a power cut."""
    params = load_params()
    outputs = all_outputs(params)[1]
    with stage_run(outputs.stage, outputs.row, params, home()) as run:
        (seed, rows), *_ = outputs.histories()
        run.log(seed, rows[0])
        run._next_sending = 0.0  # as if seconds had passed: the second epoch is sent as well
        run.log(seed, rows[1])
        os.kill(os.getpid(), signal.SIGKILL)


def run_every_stage() -> None:
    """Run the stages; the exit code is 30, and 31 if mlflow was imported."""
    params = load_params()
    for outputs in all_outputs(params):
        with stage_run(outputs.stage, outputs.row, params, home()):
            pass
    sys.exit(30 + ("mlflow" in sys.modules))


def print_experiment() -> None:
    """Connect, and print the experiment's id."""
    print(connect(home()).experiment)
