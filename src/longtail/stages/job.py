"""What all stages share: arguments, the lock, the output folder that appears whole, tracking, errors."""

import atexit
import gc
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from longtail import tracking
from longtail.params import Params, load_params
from longtail.spec import InputError
from longtail.stages import devices
from longtail.tracking.outputs import Outputs
from longtail.training.loop import History
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


def run_stage(
    stage: str,
    output: str,
    work: Callable[[Job], None],
    check_several: Callable[[Params, str, int], None] | None = None,
) -> None:
    """Run a stage as a program: exit code 0, or 2 and a sentence for what the user can mend.

    Args:
        output: the folder that the stage writes, with `{row}` where its row's name goes.
        work: does it.
        check_several: refuses rows that several devices (so many) cannot work on; None for stages that use one.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # so that locks and temporary folders are cleaned up
    atexit.register(gc.freeze)  # else Python looks for garbage once more in all of torch before it ends: a second
    try:
        params = load_params()
        row = _row(stage, params)
        wanted = devices.wanted() if check_several and not devices.is_launched() else 1
        if check_several and wanted > 1:
            from longtail.stages.launch import launch  # torchrun's agent: seconds that one device need not wait

            check_several(params, row, wanted)
            launch(stage, row, wanted)
        else:
            with _job(stage, params, row, output) if devices.is_first() else _helper(stage, params, row) as job:
                work(job)
    except InputError as error:
        if devices.is_launched():
            devices.report(error)
        else:
            print(f"{stage}: {error}", file=sys.stderr, flush=True)
        sys.exit(devices.REFUSED)


@contextmanager
def _job(stage: str, params: Params, row: str, output: str) -> Iterator[Job]:
    name = f"{stage}@{row}" if row else stage
    with (
        devices.ends_with_launcher(),
        only_writer(name, Path(".longtail") / "locks"),
        tracking.stage_run(stage, row, params, home()) as track,  # copies the outputs, so it ends after them
        _whole(output.format(row=row)) as out,
    ):
        yield Job(stage, params, row, out, track)


@contextmanager
def _helper(stage: str, params: Params, row: str) -> Iterator[Job]:
    """Work on the first process's job, without a lock; what this one writes is thrown away and nothing is recorded."""
    with devices.ends_with_launcher(), TemporaryDirectory() as folder:
        yield Job(stage, params, row, Path(folder), tracking.StageRun(Outputs(stage, row), params, home()))


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
