import os
import sys
import threading
from pathlib import Path

import pytest

from pipelines.processes import Finished, environment, run
from small_project import has_ended

CHILD = "sleep 60 & echo $! > child; "  # a stage that would live on


def shell(root: Path, script: str, timeout: float | None = None) -> Finished:
    return run(["sh", "-c", script], root, len, extra={"WORD": "given"}, timeout=timeout)


def test_output_comes_in_pieces_while_the_command_runs(tmp_path: Path) -> None:
    def answer(piece: bytes) -> None:  # the command waits for what its own first words trigger
        pieces.append(piece)
        (tmp_path / "heard").touch()

    pieces: list[bytes] = []
    script = "echo first; until test -f heard; do sleep 0.05; done; echo second >&2"
    finished = run(["sh", "-c", script], tmp_path, answer, extra={}, timeout=30)
    assert finished == Finished(0, "first\nsecond\n")
    assert b"".join(pieces) == b"first\nsecond\n"


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", -9), ('test "$WORD" = given', 0)])
def test_the_exit_status_is_the_commands_own(tmp_path: Path, script: str, code: int) -> None:
    assert shell(tmp_path, script).code == code


def test_nothing_outlives_a_command(tmp_path: Path) -> None:
    assert shell(tmp_path, CHILD + "kill -9 $$").code == -9  # as when dvc alone is killed
    assert has_ended(tmp_path / "child")


def test_a_timeout_stops_the_command_and_its_children(tmp_path: Path) -> None:
    assert shell(tmp_path, CHILD + "wait", timeout=1).timed_out
    assert has_ended(tmp_path / "child")


def test_another_thread_stops_a_silent_command(tmp_path: Path) -> None:
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    finished = run(["sh", "-c", "echo $$ >pid; exec sleep 60"], tmp_path, len, extra={}, stopping=stopping)
    assert finished.code != 0 and not finished.timed_out  # sleep would have ended with 0
    assert has_ended(tmp_path / "pid")


def test_an_interrupt_stops_the_command_and_its_children(tmp_path: Path) -> None:
    def interrupt(piece: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", CHILD + "echo ready; wait"], tmp_path, interrupt, extra={})
    assert has_ended(tmp_path / "child")


def test_on_a_terminal_stdout_is_not_taken_away(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finished = run(["sh", "-c", "echo bar; echo words >&2"], tmp_path, len, extra={}, terminal=True)
    assert finished.output == "words\n"
    assert capfd.readouterr().out == "bar\n"


def test_tools_beside_the_interpreter_are_found_without_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    path = environment(tmp_path, {})["PATH"].split(os.pathsep)
    assert path[0] == str(Path(sys.executable).parent)
    assert run(["python", "-c", "import sys; print(sys.prefix)"], tmp_path, len, extra={}).output.strip() == sys.prefix
