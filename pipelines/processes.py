"""Run a command in a session of its own, see its output live, and leave no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE = 10.0  # seconds between the request to stop and the kill
POLL = 0.2  # seconds between two looks at `stopping`

Sink = Callable[[bytes], object]


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Args:
        code: its exit status; negative for the signal that killed it.
        output: what went through the sink.
        timed_out: whether it was stopped because its time was up.
    """

    code: int
    output: str
    timed_out: bool = False


def environment(root: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: this interpreter's tools first, root's own package, output unbuffered."""
    own = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **own, **extra}


def run(
    command: Sequence[str],
    root: Path,
    sink: Sink,
    *,
    extra: Mapping[str, str],
    terminal: bool = False,
    timeout: float | None = None,
    stopping: threading.Event | None = None,
    grace: float = GRACE,
) -> Finished:
    """Run a command in root until it and all its children have ended.

    Args:
        sink: gets the output in pieces, as it comes.
        extra: environment variables besides the usual ones.
        terminal: let stdout go straight to ours (progress bars), so that only stderr passes through the sink.
        timeout: seconds; after them the command is stopped with all its children.
        stopping: stops the command likewise when another thread sets it.
        grace: seconds between the request to stop and the kill; more for a command that stops others in turn.
    """
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment(root, extra),
        stdin=subprocess.DEVNULL,
        stdout=None if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if terminal else subprocess.STDOUT,
        start_new_session=True,
    )
    overtime = threading.Event()
    reaper = threading.Thread(target=_reap, args=(process, timeout, overtime, stopping, grace), daemon=True)
    reaper.start()
    try:
        output = _read(process, sink)
    except BaseException:  # Ctrl-C, a cancelled flow, a sink that fails
        _stop(process, grace)
        raise
    finally:
        reaper.join()
    return Finished(process.returncode, output, overtime.is_set())


def _read(process: subprocess.Popen[bytes], sink: Sink) -> str:
    pipe = process.stdout or process.stderr
    assert pipe is not None, "one of the two is piped"
    pieces = []
    with pipe:
        while piece := os.read(pipe.fileno(), 65536):
            pieces.append(piece)
            sink(piece)
    return b"".join(pieces).decode(errors="replace")


def _reap(
    process: subprocess.Popen[bytes],
    timeout: float | None,
    overtime: threading.Event,
    stopping: threading.Event | None,
    grace: float,
) -> None:
    """Wait for the process, then kill what it left: where dvc alone is killed, its stage would live on."""
    end = None if timeout is None else time.monotonic() + timeout
    while process.poll() is None:
        if stopping is not None and stopping.is_set():
            _stop(process, grace)
            break
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            overtime.set()
            _stop(process, grace)
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(left if stopping is None else min(POLL, POLL if left is None else left))
    _signal(process, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Interrupt the whole session (dvc then closes its books), and kill it if it does not end."""
    _signal(process, signal.SIGINT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # every process has ended
