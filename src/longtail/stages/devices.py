"""One stage as several processes, as each of them sees it: LONGTAIL_DEVICES, rank, and the report of errors."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import distributed as dist

from longtail.spec import InputError
from longtail.training.hardware import select_device

VARIABLE = "LONGTAIL_DEVICES"
REFUSED = 2  # a stage's exit code for what the user can mend


def wanted() -> int:
    """Return LONGTAIL_DEVICES, 1 where it is not set.

    Raises:
        InputError: it is no count, or there are not as many GPUs.
    """
    text = os.environ.get(VARIABLE) or "1"
    if not (text.isdecimal() and int(text) >= 1):
        raise InputError(f"{VARIABLE} is {text!r}; set it to a number of devices, at least 1, or unset it.")
    number = int(text)
    if number > 1:
        _check(number)
    return number


def _check(number: int) -> None:
    device = select_device()
    if device.index is not None:
        raise InputError(f"LONGTAIL_DEVICE is {device}, one GPU, but {VARIABLE} is {number}; unset one of the two.")
    if device.type == "cuda" and torch.cuda.device_count() < number:
        raise InputError(f"{VARIABLE} is {number}, but torch sees {torch.cuda.device_count()} GPU(s); lower it.")


def is_launched() -> bool:
    """Say whether this process is one of several that `longtail.stages.launch` has started."""
    return dist.is_torchelastic_launched()


def is_first() -> bool:
    """Say whether this process writes what is kept; the others' outputs are thrown away."""
    return not is_launched() or os.environ["RANK"] == "0"


def report(error: InputError) -> None:
    """Hand what the user can mend to the process that launched this one."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler  # slow, and mostly not needed

    get_error_handler().record_exception(error)


@contextmanager
def ends_with_launcher() -> Iterator[None]:
    """Let a launched process end with the one that launched it, and quietly where that one stops it.

    torchrun gives each process a session of its own, so nothing else would end those that a killed agent leaves.
    """
    if not is_launched():
        yield
        return
    threading.Thread(target=_follow, args=(psutil.Process().parent(),), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def _follow(launcher: psutil.Process) -> None:
    launcher.wait()
    os.killpg(0, signal.SIGTERM)
