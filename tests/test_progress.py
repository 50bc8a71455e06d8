"""What a person sees: lines now and then in a log, a bar on a terminal."""

import io
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest

from longtail import progress
from longtail.progress import EpochProgress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that progress reads."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def watch(clock: Clock, start: int, epochs: int, seconds: float) -> None:
    """Train epochs of so many seconds and 1000 images."""
    with EpochProgress("train@ce seed 0", start, epochs) as shown:
        for epoch in range(start, epochs):
            clock.now += seconds
            shown.advance(epoch, 1000, 1.5 - 0.001 * epoch)


def test_quick_training_is_one_line_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch(clock, 0, 5, seconds=0.5)
    assert capsys.readouterr().out == ("train@ce seed 0: epoch 5/5, 2,000 images/s, loss 1.496, done in 2 s\n")


def test_slow_training_speaks_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch(clock, 0, 100, seconds=4)
    lines = capsys.readouterr().out.splitlines()
    epochs = [int(line.split("epoch ")[1].split("/")[0]) for line in lines]
    assert epochs == [*range(4, 100, 4), 100]  # each 16 s, the first time that 15 have passed
    assert lines[0] == "train@ce seed 0: epoch 4/100, 250 images/s, loss 1.497, 6 min left"
    assert lines[-2] == "train@ce seed 0: epoch 96/100, 250 images/s, loss 1.405, 16 s left"
    assert lines[-1] == "train@ce seed 0: epoch 100/100, 250 images/s, loss 1.401, done in 7 min"


def test_after_a_resume_only_what_was_trained_now_counts(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch(clock, 90, 100, seconds=10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train@ce seed 0: epoch 92/100, 100 images/s, loss 1.409, 80 s left"
    assert lines[-1] == "train@ce seed 0: epoch 100/100, 100 images/s, loss 1.401, done in 2 min"


def test_nothing_left_to_train_is_nothing_to_say(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch(clock, 5, 5, seconds=1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A screen, in an environment that says nothing else."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal()


def test_a_terminal_has_a_bar_and_no_lines(clock: Clock, terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        watch(clock, 3, 5, seconds=20)
    shown = terminal.getvalue()
    assert "train@ce seed 0" in shown
    assert "5/5 epochs" in shown
    assert "50 images/s, loss 1.496" in shown
    assert "epoch 5/5" not in shown


def test_a_terminal_that_cannot_move_its_cursor_has_lines(
    clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with redirect_stdout(terminal):
        watch(clock, 0, 2, seconds=1)
    assert terminal.getvalue() == "train@ce seed 0: epoch 2/2, 1,000 images/s, loss 1.499, done in 2 s\n"


def test_the_bar_is_taken_down_after_an_error(clock: Clock, terminal: Terminal) -> None:
    with redirect_stdout(terminal), pytest.raises(KeyError), EpochProgress("train@ce seed 0", 0, 5) as shown:
        assert shown.bar.live.is_started
        raise KeyError
    assert not shown.bar.live.is_started
