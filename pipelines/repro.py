"""`dvc repro` for a person: params checked first, live output, the leaderboard at the end, exit code 2 for user errors.

`make run` is this module. A plain `dvc repro` gives the same results.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markdown import Markdown

from pipelines.failures import USER_ERROR, PipelineError, UserError, failure_of
from pipelines.processes import Sink, run

DVC = ("dvc", "--wait-for-lock")  # two runs in one workspace: the second waits for the first
CHECK_PARAMS = (sys.executable, "-m", "longtail.params")
TABLE_WIDTH = 100  # characters that the leaderboard needs
COLUMNS = ("method", "overall", "many", "medium", "few", "n")  # of it that a terminal shows
NEXT = """
What to look at next:
  reports/plots/         accuracy per class, confusion, learning curves, GLAG's adaptation
  make ui                all runs, metrics and models in MLflow
  params.yaml            every number; change one and `make run` trains only what depends on it
  . .venv/bin/activate   then `dvc metrics show`, `dvc plots diff`, `dvc exp run -S methods.glag.balancer.beta_0=0.4`
"""


def check_params(root: Path, sink: Sink, *, terminal: bool = False) -> None:
    """Validate the whole of params.yaml before anything runs.

    Raises:
        UserError: params.yaml does not hold; every sentence about it has gone to the sink.
    """
    checked = run(CHECK_PARAMS, root, sink, extra={}, terminal=terminal)
    if checked.code == USER_ERROR:
        raise UserError(f"params.yaml was refused: {' '.join(checked.output.split())}")
    if checked.code:
        raise PipelineError(f"params.yaml could not be checked: exit code {checked.code}.")


def reproduce(root: Path, extra: Mapping[str, str], stages: Sequence[str] = ()) -> None:
    """Check params.yaml and run `dvc repro` in root, live on the terminal.

    Args:
        extra: environment variables for the stages.
        stages: those to run, with what they stand on; all of them by default.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    check_params(root, _to_stderr, terminal=True)
    finished = run([*DVC, "repro", *stages], root, _to_stderr, extra=extra, terminal=True)
    if failure := failure_of(finished, "dvc repro"):
        raise failure


def show_leaderboard(reports: Path) -> None:
    """Print the main columns of the leaderboard that the report stage wrote; the file has them all."""
    lines = (reports / "leaderboard.md").read_text().replace("<br>", " ").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    shown = [i for i, title in enumerate(rows[0]) if title.startswith(COLUMNS) and "by index" not in title]
    table = "\n".join("| " + " | ".join(row[i] for i in shown) + " |" for row in rows)
    console, file = Console(), os.path.relpath(reports / "leaderboard.md")
    console.width = max(console.width, TABLE_WIDTH)
    console.print(Markdown(table))
    print(f"Percent, mean ± standard deviation over n seeds; groups, hardware and commit: {file}")


def stop_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that what it started is stopped too."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _to_stderr(piece: bytes) -> None:
    sys.stderr.buffer.write(piece)
    sys.stderr.buffer.flush()


def main() -> int:
    """Run the graph in the current directory and return the exit code."""
    stop_on_sigterm()
    root = Path.cwd()
    try:
        reproduce(root, {})
    except PipelineError as failure:
        return failure.exit_code
    except KeyboardInterrupt:
        print("Stopped. Run it again to continue from the last epoch.", file=sys.stderr)
        return 130
    show_leaderboard(root / "reports")
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
