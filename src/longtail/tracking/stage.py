"""What a stage and a flow see of MLflow: a run that takes epochs, and a parent run to open and close."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from longtail.images.labeled import LongTailSplit
from longtail.params import Params, load_params
from longtail.tracking import runs
from longtail.tracking.outputs import Numbers, Outputs, epoch_numbers
from longtail.tracking.record import Record, log_report
from longtail.tracking.server import connect, excuse, is_on, locked
from longtail.workspace import home

HERE = Path()
PAUSE = 2.0  # seconds between two sendings: short epochs travel together
SHARE = 10.0  # and a slow server gets at most this part (a tenth) of the time
RETRY = 30.0  # seconds until a server that was away is tried again


class StageRun:
    """The record of a running stage. Its methods neither fail nor wait long; without a server they do nothing.

    Args:
        root: folder that holds the database, see `longtail.workspace.home`.
    """

    def __init__(self, outputs: Outputs, params: Params, root: Path) -> None:
        self._outputs, self._params, self._root = outputs, params, root
        self._record: Record | None = None
        self._waiting: dict[int, dict[int, Numbers]] = {}  # seed -> epoch -> numbers
        self._next_sending = math.inf  # nothing is sent before `start`

    def log(self, seed: int, row: Mapping[str, Any]) -> None:
        """Take an epoch's history row, with its "epoch".

        It is sent now, with the next ones if epochs are short, or when a server that was away is back.
        """
        self._waiting.setdefault(seed, {})[int(row["epoch"])] = epoch_numbers(seed, row)
        if time.monotonic() >= self._next_sending:
            if self._record is None:
                self.start()
            self._try(self._send)

    def dataset(self, split: LongTailSplit) -> None:
        """Name the data that the stage works on."""
        self._try(lambda record: record.dataset(split))

    def start(self) -> None:
        """Find or make the stage's run."""
        began = time.monotonic()
        try:
            self._record = Record.begin(connect(self._root), self._params, self._outputs, self._root)
            self._next_sending = 0.0
        except Exception as error:
            self._give_up(began, error)

    def succeed(self) -> None:
        """Copy what the stage wrote and end its run; if the server was away meanwhile, begin again."""
        if self._record is None:
            self.start()
        self._try(Record.complete)

    def fail(self) -> None:
        """End the run as FAILED; if the server was away meanwhile, find the run again."""
        if self._record is None:
            self.start()
        self._try(self._send)
        self._try(lambda record: record.close("FAILED"))

    def _send(self, record: Record) -> None:
        began = time.monotonic()
        for seed, steps in self._waiting.items():
            record.epochs(seed, steps)
        self._waiting = {}
        self._pause(began, PAUSE)

    def _try(self, action: Callable[[Record], None]) -> None:
        """Act on the record; after a failure there is none, so that the next epochs do not wait for the same server."""
        began = time.monotonic()
        if self._record is not None:
            try:
                action(self._record)
            except Exception as error:
                self._give_up(began, error)

    def _give_up(self, began: float, error: Exception) -> None:
        self._record = None
        self._pause(began, RETRY)
        excuse(self._root, error)

    def _pause(self, began: float, least: float) -> None:
        now = time.monotonic()
        self._next_sending = now + max(least, SHARE * (now - began))


@contextmanager
def stage_run(stage: str, row: str, params: Params, root: Path) -> Iterator[StageRun]:
    """Record a stage while the block runs; enter it before, and leave it after, the stage's output folder.

    A block that raises makes its run FAILED. One that is interrupted or killed leaves it RUNNING, and the next stage
    with the same row, params, code and working folder continues it.

    Args:
        stage: split, train, extract, finetune, evaluate or report.
        row: a representation or a method; "" for stages without rows.
        root: folder that holds the database, see `longtail.workspace.home`.
    """
    run = StageRun(Outputs(stage, row), params, root)
    if not is_on():
        yield run
        return
    run.start()
    try:
        yield run
    except Exception:
        run.fail()
        raise
    run.succeed()


def open_parent(reason: str, folder: Path = HERE) -> str | None:
    """Open a parent run for a pipeline run and return its id, which stages expect in LONGTAIL_PARENT_RUN.

    Args:
        reason: why the pipeline runs ("nightly", "by hand"); a tag.
        folder: where dvc.yaml and params.yaml are.

    Returns:
        None if tracking is off or MLflow cannot be reached: then the stages look after themselves.
    """
    if not is_on():
        return None
    with chdir(folder):
        root = home()
        try:
            server, params = connect(root), load_params()
            with locked(root):
                return runs.make_parent(server, params, runs.pipeline_key(params), reason)
        except Exception as error:
            excuse(root, error)
            return None


def close_parent(run_id: str | None, status: str, folder: Path = HERE) -> None:
    """Close a parent run that `open_parent` opened; what still runs in it was killed.

    Args:
        status: FINISHED (then the report's metrics and plots are copied to it), FAILED or KILLED.
        folder: as for `open_parent`.
    """
    if run_id is None or not is_on():
        return
    with chdir(folder):
        root = home()
        try:
            server = connect(root)
            runs.abandon(server, run_id)
            if status == "FINISHED":
                log_report(server, run_id)
            server.client.set_terminated(run_id, status)
        except Exception as error:
            excuse(root, error)
