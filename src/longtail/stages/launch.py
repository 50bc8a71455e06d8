"""torchrun's own agent, started by a stage: several processes of it, and one sentence if they fail."""

import logging
import os
import sys
from tempfile import TemporaryDirectory
from typing import NoReturn
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from longtail.spec import InputError
from longtail.stages.devices import REFUSED


def launch(stage: str, row: str, processes: int) -> None:
    """Run a stage's row as several processes and wait for them; the first one talks.

    Raises:
        InputError: what one of them refused.
        SystemExit: one of them failed or was killed.
        KeyboardInterrupt: this process was told to stop.
    """
    print(f"{stage}@{row}: {processes} processes train together", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(torch.get_num_threads() // processes, 1)))  # they share the cores
    logging.disable(logging.ERROR)  # torchrun's own account of a failure is a page; ours is a sentence
    with TemporaryDirectory() as logs:
        try:
            elastic_launch(_config(processes, logs), sys.executable)("-m", f"longtail.stages.{stage}", row)
        except ChildFailedError as error:
            _explain(f"{stage}@{row}", dict(error.failures), processes)
        except SignalException:
            raise KeyboardInterrupt from None  # as a stage of one process ends


def _config(processes: int, logs: str) -> LaunchConfig:
    silent = dict.fromkeys(range(1, processes), Std.OUT)
    return LaunchConfig(  # what `torchrun --standalone` makes of its options
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # a run that is started again continues; what failed once for a reason would fail again
        logs_specs=DefaultLogsSpecs(logs, redirects=silent),
    )


def _explain(name: str, failures: dict[int, ProcessFailure], processes: int) -> NoReturn:
    for failure in failures.values():
        if failure.exitcode == REFUSED and isinstance(failure.message, dict):
            raise InputError(failure.message["message"].removeprefix(f"{InputError.__name__}: "))
    place, failure = min(failures.items(), key=lambda item: item[1].exitcode)  # signals are negative: the cause
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"failed ({failure.exitcode})"
    print(
        f"{name}: process {place + 1} of {processes} {how}, and the others were stopped. The checkpoint of the last "
        "finished epoch is kept, and the same command continues from it.",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(128 - failure.exitcode if failure.exitcode < 0 else 1)
