"""What a person sees while something trains: a bar on a terminal, a line now and then in a log."""

import os
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 15.0  # seconds between lines where there is no terminal

_said: set[str] = set()


def say_once(sentence: str, stream: TextIO | None = None) -> None:
    """Print a sentence once per process, to stdout unless another stream is given."""
    if sentence not in _said:
        _said.add(sentence)
        print(sentence, file=stream or sys.stdout, flush=True)


class EpochProgress:
    """Shows epochs, images (or rows) per second and the time left; counts from `start` after a resume."""

    def __init__(self, name: str, start: int, epochs: int) -> None:
        self.name, self.start, self.epochs = name, start, epochs
        self.rows = 0
        self.began = self.spoke = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} epochs"))
        self.bar = Progress(
            *columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), disable=not self._live()
        )
        self.task = self.bar.add_task(name, total=epochs, completed=start, rate="")

    @staticmethod
    def _live() -> bool:
        return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")  # those draw no bar

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, epoch: int, rows: int, loss: float) -> None:
        """Say that epoch (0-based) is done, with the rows it trained on and its mean loss in nats."""
        self.rows += rows
        elapsed = time.monotonic() - self.began
        rate = f"{self.rows / max(elapsed, 1e-9):,.0f} images/s, loss {loss:.3f}"
        self.bar.update(self.task, completed=epoch + 1, rate=rate)
        last = epoch + 1 == self.epochs
        if not self._live() and (last or time.monotonic() - self.spoke > LINE_EVERY):
            self.spoke = time.monotonic()
            left = elapsed / (epoch + 1 - self.start) * (self.epochs - epoch - 1)
            end = f"done in {_duration(elapsed)}" if last else f"{_duration(left)} left"
            print(f"{self.name}: epoch {epoch + 1}/{self.epochs}, {rate}, {end}", flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
