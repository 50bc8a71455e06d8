"""What all stages share: arguments, the lock, the output folder that appears whole, tracking, errors."""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from longtail import tracking
from longtail.params import Params, load_params
from longtail.spec import InputError
from longtail.training import History
from longtail.workspace import home, only_writer, whole_folder

ROWS = {"train": "representations", "extract": "representations", "finetune": "methods", "evaluate": "methods"}


@dataclass(frozen=True)
class Job:
    """A stage at work.

    Args:
        params: the whole of params.yaml.
        row: the representation or method, or "" for stages without rows.
        out: the folder to write; it is renamed to the stage's output when the stage has succeeded.
        track: MLflow, or nothing where tracking is off.
    """

    stage: str
    params: Params
    row: str
    out: Path
    track: tracking.StageRun

    @property
    def name(self) -> str:
        """The stage's name in dvc.yaml."""
        return f"{self.stage}@{self.row}" if self.row else self.stage

    def folder(self, seed: int) -> Path:
        """Make and return the output folder of a seed."""
        folder = self.out / f"seed_{seed}"
        folder.mkdir(exist_ok=True)
        return folder

    def write_history(self, seed: int, history: list[History]) -> None:
        """Write a seed's history.jsonl."""
        lines = "".join(json.dumps(row) + "\n" for row in history)
        (self.folder(seed) / "history.jsonl").write_text(lines)


def run_stage(stage: str, output: str, work: Callable[[Job], None]) -> None:
    """Run a stage as a program: exit code 0, or 2 and a sentence for what the user can mend.

    Args:
        output: the folder that the stage writes, with `{row}` where its row's name goes.
        work: does it.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # so that locks and temporary folders are cleaned up
    try:
        params = load_params()
        row = _row(stage, params)
        name = f"{stage}@{row}" if row else stage
        with (
            only_writer(name, Path(".longtail") / "locks"),
            tracking.stage_run(stage, row, params, home()) as track,  # copies the outputs, so it ends after them
            _whole(output.format(row=row)) as out,
        ):
            work(Job(stage, params, row, out, track))
    except InputError as error:
        print(f"{stage}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def _whole(output: str) -> AbstractContextManager[Path]:
    return whole_folder(Path(output)) if output else nullcontext(Path())


def _row(stage: str, params: Params) -> str:
    if stage not in ROWS:
        return ""
    rows = getattr(params, ROWS[stage])
    if len(sys.argv) != 2 or sys.argv[1] not in rows:
        came = " ".join(sys.argv[1:]) or "nothing"
        raise InputError(f"the {stage} stage takes one row of {ROWS[stage]} ({', '.join(rows)}), but got {came}.")
    return sys.argv[1]


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
