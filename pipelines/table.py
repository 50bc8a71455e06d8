"""Run what this project wants to have run (benchmarks/results/wanted.yaml): what is missing, row by row, seed by seed.

    make table                                  go on with the list (Ctrl-C or a kill loses at most an epoch)
    python -m pipelines.table --state           what is there and what is missing; nothing runs
    python -m pipelines.table --bring FOLDER    take home what a copy of another machine's repository has

A run is `make run PARAMS=… METHODS=… SET="seeds=[…]"` at low priority; without dvc (a lent GPU machine) it is
`python -m pipelines.bare`. A row that its results folder has, by the same recipe, is not run again. One line shows
which run is at which epoch and how long the rest may take; each run's own words are in .longtail/table/<run>.log.
"""

import importlib.util
import os
import re
import shutil
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.failures import PipelineError, UserError
from pipelines.processes import GRACE, run
from pipelines.repro import stop_on_sigterm
from pipelines.variants import Variant, read_variant

if TYPE_CHECKING:  # longtail imports torch, which a refusal of the command line need not wait for
    from longtail.params import Params

RESULTS = Path("benchmarks") / "results"
WANTED = RESULTS / "wanted.yaml"
STATE = RESULTS / "README.md"
EPOCH = re.compile(r"train@(\w+) seed (\d+): epoch (\d+)/(\d+), ([\d,]+) images/s")
RESUMED = re.compile(r"train@(\w+) seed (\d+): resumed at epoch (\d+)")
LINE_EVERY = 60.0  # seconds between lines where there is no terminal
NICENESS = 19


@dataclass(frozen=True)
class Run:
    """One row of one table with one seed.

    Args:
        variant: the params file with the entry's changes and this seed.
        method: a row of `methods`.
        epochs: of each representation that the row stands on.
    """

    variant: Variant
    method: str
    seed: int
    epochs: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """What the progress line and the log are called."""
        return f"{self.variant.table.name} {self.method} seed {self.seed}"

    @property
    def results(self) -> Path:
        """The folder of its table."""
        return RESULTS / self.variant.table.name

    @property
    def trainings(self) -> dict[tuple[str, str, int], int]:
        """(table, representation, seed) -> epochs."""
        return {(self.variant.table.name, row, self.seed): epochs for row, epochs in self.epochs}

    def is_done(self) -> bool:
        """Look whether the table has the row, by this recipe and seed."""
        from longtail.report.results import lack, load

        rows = load(self.results)
        return not lack(rows, _params(self.variant), self.method) and str(self.seed) in rows[self.method]["seeds"]


def wanted(root: Path) -> list[Run]:
    """Read the list, in its order.

    Raises:
        UserError: an entry is none, or names what its file has not.
    """
    entries = yaml.safe_load((root / WANTED).read_text())
    return [one for number, entry in enumerate(entries) for one in _runs(root, f"{WANTED}, entry {number + 1}", entry)]


def _runs(root: Path, where: str, entry: Any) -> Iterator[Run]:
    needed = {"file", "methods", "seeds"}
    if not isinstance(entry, dict) or not needed <= set(entry) <= {*needed, "set"}:
        raise UserError(f"{where} needs file, methods and seeds, and may have set; it has {entry}.")
    file = root / "benchmarks" / entry["file"]
    changes = [f"{key}={value}" for key, value in (entry.get("set") or {}).items()]
    for seed in entry["seeds"]:
        variant = read_variant(file, [*changes, f"seeds=[{seed}]"])
        params = _params(variant)
        for method in entry["methods"]:
            if method not in params.methods:
                raise UserError(f"{where} names {method}, but {file.name} has {', '.join(params.methods)}.")
            rows = params.lineage(params.methods[method].representation)
            yield Run(variant, method, seed, tuple((row, params.plan_of(row).epochs) for row in rows))


def _params(variant: Variant) -> "Params":
    from longtail.params import Params

    return Params.model_validate(yaml.safe_load(variant.text))


@dataclass
class Estimate:
    """How far the trainings are, and how long the rest may take.

    Args:
        left: (table, representation, seed) -> epochs that are still to come.
        jobs: runs at once.
    """

    left: dict[tuple[str, str, int], int]
    jobs: int
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # (table, representation) -> of an epoch
    seen: dict[tuple[str, str, int], tuple[int, float]] = field(default_factory=dict)  # -> epoch and when

    def note(self, table: str, line: str) -> str | None:
        """Take a line that a run printed; return where it is if the line says so."""
        if resumed := RESUMED.search(line):
            self.seen[table, resumed[1], int(resumed[2])] = (int(resumed[3]), time.monotonic())
        if not (said := EPOCH.search(line)):
            return None
        key, epoch, epochs = (table, said[1], int(said[2])), int(said[3]), int(said[4])
        before, then = self.seen.get(key, (0, 0.0))
        if then and epoch > before:
            self.seconds[key[:2]] = (time.monotonic() - then) / (epoch - before)
        if not then:
            self.seen[key] = (epoch, time.monotonic())
        self.left[key] = epochs - epoch
        return f"epoch {epoch}/{epochs}, {said[5]} images/s"

    def finish(self, one: Run) -> None:
        """A run is over: nothing of it is left."""
        for key in one.trainings:
            self.left[key] = 0

    def __str__(self) -> str:
        if not self.seconds:
            return "time left: not known yet"
        usual = sum(self.seconds.values()) / len(self.seconds)
        seconds = sum(epochs * self.seconds.get(key[:2], usual) for key, epochs in self.left.items()) / self.jobs
        return f"about {seconds / 3600:.1f} h left" if seconds > 5400 else f"about {seconds / 60:.0f} min left"


class ProgressLine:
    """One line for all runs: on a terminal it changes in place, in a log it appears now and then."""

    def __init__(self) -> None:
        self._spoke, self._lock = 0.0, threading.Lock()

    def show(self, text: str, *, now: bool = False) -> None:
        """Show a line; `now` even if one has just been written to a log."""
        with self._lock:
            if sys.stdout.isatty():
                width = shutil.get_terminal_size().columns - 1
                print(f"\r{text[:width]:{width}}", end="\n" if now else "", flush=True)
            elif now or time.monotonic() - self._spoke > LINE_EVERY:
                self._spoke = time.monotonic()
                print(text, flush=True)


@dataclass
class Table:
    """The list at work.

    Args:
        jobs: how many params files (with their seed) run at once.
    """

    root: Path
    runs: Sequence[Run]
    jobs: int
    line: ProgressLine = field(default_factory=ProgressLine)
    stopping: threading.Event = field(default_factory=threading.Event)
    estimate: Estimate = field(default_factory=lambda: Estimate({}, 1))
    places: dict[str, str] = field(default_factory=dict)  # of each run among all of them

    def run(self) -> list[Run]:
        """Run what is missing, and return the runs that failed.

        Raises:
            KeyboardInterrupt: it was stopped, and so were the runs.
        """
        missing = [one for one in self.runs if not one.is_done()]
        there = len(self.runs) - len(missing)
        self.line.show(f"{there} of {len(self.runs)} runs are there, {len(missing)} to go.", now=True)
        self.estimate = Estimate({key: n for one in missing for key, n in one.trainings.items()}, self.jobs)
        self.places = {one.name: f"[{there + place}/{len(self.runs)}]" for place, one in enumerate(missing, 1)}
        clones: dict[str, list[Run]] = {}
        for one in missing:  # rows of one clone cannot run side by side
            clones.setdefault(one.variant.name, []).append(one)
        pool = ThreadPoolExecutor(self.jobs)
        try:
            return [one for failed in pool.map(self._one_after_another, clones.values()) for one in failed]
        except BaseException:
            self.stopping.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _one_after_another(self, runs: Sequence[Run]) -> list[Run]:
        return [one for one in runs if not self.stopping.is_set() and not self._succeeds(one)]

    def _succeeds(self, one: Run) -> bool:
        log = self.root / ".longtail" / "table" / f"{one.name.replace(' ', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.line.show(f"{self.places[one.name]} {one.name}: starts; {self.estimate}")
        with log.open("ab") as file:

            def sink(piece: bytes) -> None:
                file.write(piece)
                file.flush()
                for text in piece.decode(errors="replace").splitlines():
                    if where := self.estimate.note(one.variant.table.name, text):
                        self.line.show(f"{self.places[one.name]} {one.name}: {where}; {self.estimate}")

            code = run(command_of(one), self.root, sink, extra={}, stopping=self.stopping, grace=3 * GRACE).code
        if self.stopping.is_set():
            return False
        self.estimate.finish(one)
        ended = "done" if code == 0 else f"failed with exit code {code}, see {log.relative_to(self.root)}"
        self.line.show(f"{self.places[one.name]} {one.name}: {ended}; {self.estimate}", now=True)
        write_state(self.root, self.runs)
        return code == 0


def command_of(one: Run) -> list[str]:
    """Return the command of a run: with dvc where it is installed."""
    module = "pipelines.clone" if importlib.util.find_spec("dvc") else "pipelines.bare"
    words = [f"{key}={value}" for key, value in one.variant.changes.items()]
    return [sys.executable, "-m", module, str(one.variant.file), *words, "--methods", one.method]


def state(runs: Sequence[Run]) -> str:
    """Return the list as markdown: each table's rows, and which seeds of them are there."""
    lines = ["| table | row | seeds there | seeds wanted |", "| :--- | :--- | :--- | :--- |"]
    rows: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        rows.setdefault((one.variant.table.name, one.method), []).append(one)
    for (table, method), each in rows.items():
        there = ", ".join(str(one.seed) for one in each if one.is_done()) or "none"
        link = f"[{table}]({table}/leaderboard.md)" if (RESULTS / table / "leaderboard.md").exists() else table
        lines.append(f"| {link} | {method} | {there} | {', '.join(str(one.seed) for one in each)} |")
    return "\n".join(lines) + "\n"


def write_state(root: Path, runs: Sequence[Run]) -> None:
    """Write benchmarks/results/README.md."""
    (root / RESULTS).mkdir(parents=True, exist_ok=True)
    text = f"# What has been run, of what is wanted\n\nWritten by `make table` from `{WANTED}`.\n\n{state(runs)}"
    temporary = (root / STATE).with_suffix(f".{threading.get_ident()}.tmp")
    temporary.write_text(text)
    temporary.replace(root / STATE)


def bring(root: Path, folder: Path) -> list[str]:
    """Take home the results of a copy of another machine's repository, and send its runs to MLflow.

    Returns:
        A sentence for each table.

    Raises:
        UserError: the folder has no results.
    """
    from longtail.params import load_params
    from longtail.report import results

    tables = sorted(file.parent for file in (folder / RESULTS).glob("*/metrics.json"))
    if not tables:
        raise UserError(f"--bring is '{folder}', which has no {RESULTS}/*/metrics.json. Name a copy of a repository.")
    said = []
    for table in tables:
        target = root / RESULTS / table.name
        params = load_params(table / "params.yaml")
        strangers = results.bring(target, table, params)
        shutil.copyfile(table / "params.yaml", target / "params.yaml")
        apart = f"; of another recipe or split than ours, and left there: {', '.join(strangers)}" if strangers else ""
        said.append(f"{table.name}: rows joined{apart}.")
    for made in sorted((folder / ".longtail" / "bare").glob("*/params.yaml")):
        sent = run(
            [sys.executable, "-m", "longtail.tracking", "sync"], made.parent, len, extra={"LONGTAIL_HOME": str(root)}
        )
        said.append(f"{made.parent.name}: {' '.join(sent.output.split())}")
    return said


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="pipelines.table", description=f"Run what {WANTED} wants and is missing.")
    parser.add_argument("--jobs", type=int, default=1, help="params files at once (a GPU has room for several)")
    parser.add_argument("--state", action="store_true", help="write what is there and what is missing, and run nothing")
    parser.add_argument("--bring", type=Path, metavar="FOLDER", help="take home what a copy of a repository has")
    return parser.parse_args()


def main() -> int:
    """Run, show or bring, and return the exit code: 1 if a run failed."""
    arguments = _arguments()
    stop_on_sigterm()
    root = Path.cwd()
    try:
        if arguments.jobs < 1:
            raise UserError(f"--jobs is {arguments.jobs}; give at least 1.")
        if arguments.bring:
            print("\n".join(bring(root, arguments.bring)))
        runs = wanted(root)
        write_state(root, runs)
        if arguments.bring or arguments.state:
            print(state(runs), end="")
            return 0
        os.nice(NICENESS)
        return 1 if Table(root, runs, arguments.jobs).run() else 0
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("\nStopped. Run it again to continue from the last epoch.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
