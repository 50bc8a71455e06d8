"""Programs that listen on free ports of this machine, and leave no process behind."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

HOST = "127.0.0.1"
READY_SECONDS, STOP_SECONDS = 180.0, 20.0
TAIL = 40  # lines of a log in a failure's message
QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "AWS_EC2_METADATA_DISABLED": "true",  # no machine in a cloud is asked for keys
}


def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def answers(url: str) -> bool:
    """Say whether an address answers a GET with 200."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=10) as response:
        return bool(response.status == 200)
    return False


class Server(ABC):
    """A program that listens on a port; `start` and `kill` may alternate, the port stays the same.

    Args:
        folder: gets the log.
    """

    name: str
    stop_signal = signal.SIGKILL
    user: str | None = None

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.log = folder / f"{self.name}.{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it is, for programs on this machine."""
        return f"http://{HOST}:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether it answers."""

    def environment(self) -> Mapping[str, str]:
        """Return what it needs besides our own variables."""
        return {}

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            AssertionError: it ended or took too long; with the end of its log.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**inherited(), **QUIET, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.user),
            )
        try:
            self._wait(self._process)
        except BaseException:  # Ctrl-C as well
            self.kill()
            raise

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        last = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            code = process.poll()
            if code is not None or time.monotonic() > last:
                end = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:])
                how = "did not answer" if code is None else f"ended with {code}"
                raise AssertionError(f"{self.name} {how}:\n{end}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it with everything it started; by default at once, as if its machine were lost."""
        if self._process is not None and self._process.poll() is None:
            parts = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            for part in parts:
                with suppress(psutil.NoSuchProcess):
                    part.kill()
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process that was started; others may descend from it."""
        assert self._process is not None, f"{self.name} has not been started"
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Stop a process and its descendants while the block runs. A server's port still takes connections then."""
    parts = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for part in parts:
        part.suspend()
    try:
        yield
    finally:
        for part in parts:
            with suppress(psutil.NoSuchProcess):
                part.resume()


def inherited() -> dict[str, str]:
    """Return our environment without what would send a server, or its client, elsewhere."""
    foreign = ("LONGTAIL_", "MLFLOW_", "PREFECT_", "DVC_", "AWS_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def as_user(name: str | None) -> dict[str, Any]:
    """Return the arguments of subprocess that run a program as somebody else; none for ourselves."""
    return {} if name is None else {"user": name, "group": name, "extra_groups": ()}
