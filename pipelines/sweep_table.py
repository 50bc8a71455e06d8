"""The trials of a sweep: a table for the terminal, sweep.json and sweep.md."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines.sweep_ranking import Row, best_setting, ranked, settings_of
from pipelines.sweep_trial import Outcome, timestamp

WARNING = "not to choose by"
NO_SCORE = "—"


@dataclass(frozen=True)
class Provenance:
    """Where a sweep's numbers come from.

    Args:
        params: the params file.
        score: the metric that ranks, of the validation images.
        show_test: whether test numbers are shown too.
        jobs: trials that ran at once.
        commit, hardware: of the code and of this machine.
    """

    params: str
    score: str
    show_test: bool
    jobs: int
    commit: str
    hardware: str


def _cell(summary: dict[str, Any] | None, score: str) -> str:
    """Write percent, mean ± standard deviation over seeds."""
    numbers = (summary or {}).get(score)
    if numbers is None or numbers["mean"] is None:
        return NO_SCORE
    spread = "" if numbers["std"] is None else f" ± {100 * numbers['std']:.1f}"
    return f"{100 * numbers['mean']:.1f}{spread}"


def _titles(outcomes: Sequence[Outcome], about: Provenance) -> list[str]:
    test = [f"test {about.score} ({WARNING})"] if about.show_test else []
    return ["method", *_keys(outcomes), "seeds", f"validation {about.score}", *test, "trial"]


def _keys(outcomes: Sequence[Outcome]) -> list[str]:
    keys = [key for outcome in outcomes for key in outcome.settings if key != "seeds"]  # seeds are a column anyway
    return list(dict.fromkeys(keys))


def _cells(row: Row, keys: Sequence[str], about: Provenance) -> list[str]:
    outcome = row.outcome
    test = [_cell(row.test, about.score)] if about.show_test else []
    settings = [outcome.settings.get(key, NO_SCORE) for key in keys]
    seeds = ", ".join(map(str, outcome.seeds))
    return [row.method or "all", *settings, seeds, _cell(row.validation, about.score), *test, outcome.state]


def advice(outcomes: Sequence[Outcome], about: Provenance) -> str:
    """Name the best setting in words, and how to train it."""
    found = best_setting(outcomes, about.score)
    if found is None:
        return "No setting has a validation score for all its seeds; data.validation.per_class must be above 0."
    rows, mean = found
    method, numbers = settings_of(rows[0])
    seeds = sorted({seed for row in rows for seed in row.outcome.seeds})
    words = " ".join([*(f"{key}={_quoted(value)}" for key, value in numbers), f"seeds={seeds}".replace(" ", "")])
    return (
        f"Best on validation images: {method}, {100 * mean:.1f} % {about.score}, mean over seeds "
        f'{", ".join(map(str, seeds))}. Train its file: make run PARAMS={about.params} SET="{words}"'
    )


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.,+/\[\]-]+", value) else f"'{value}'"


def terminal_table(outcomes: Sequence[Outcome], about: Provenance) -> Table:
    """Lay the trials out for a terminal; percent."""
    table = Table(*(title.removeprefix("methods.") for title in _titles(outcomes, about)))
    for row in ranked(outcomes, about.score):
        table.add_row(*(escape(cell) for cell in _cells(row, _keys(outcomes), about)))
    return table


def markdown(name: str, outcomes: Sequence[Outcome], about: Provenance) -> str:
    """Write sweep.md: the table, what failed, where it comes from."""
    rows = [_titles(outcomes, about), [":---"] * len(_titles(outcomes, about))]
    rows += [_cells(row, _keys(outcomes), about) for row in ranked(outcomes, about.score)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    failed = [f"- {outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.reason]
    reasons = "\n".join(["", "What failed:", "", *failed, ""]) if failed else ""
    seeds = ", ".join(map(str, sorted({seed for outcome in outcomes for seed in outcome.seeds})))
    return (
        f"# {name}\n\n{table}\n{reasons}\n"
        "Percent, mean ± standard deviation over a trial's seeds, of the validation images; best first. No test image "
        "chose anything.\n\n"
        f"{advice(outcomes, about)}\n\n"
        f"{about.params}; seeds {seeds}; {about.jobs} at a time; commit {about.commit}; {about.hardware}.\n"
    )


def document(name: str, outcomes: Sequence[Outcome], about: Provenance) -> dict[str, Any]:
    """Return what sweep.json holds; test numbers only where they were asked for, under a name that warns."""
    return {"name": name, **asdict(about), "trials": [_entry(outcome, about) for outcome in outcomes]}


def _entry(outcome: Outcome, about: Provenance) -> dict[str, Any]:
    entry = asdict(outcome)
    test = entry.pop("test")
    times = {"started": timestamp(outcome.started), "ended": timestamp(outcome.ended)}
    warned = {f"test ({WARNING})": test} if about.show_test else {}
    return {**entry, **times, **warned}


def write_results(folder: Path, outcomes: Sequence[Outcome], about: Provenance) -> None:
    """Write sweep.json and sweep.md into a folder, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "sweep.json": json.dumps(document(folder.name, outcomes, about), indent=2, ensure_ascii=False) + "\n",
        "sweep.md": markdown(folder.name, outcomes, about),
    }
    for name, text in texts.items():
        new = folder / f"{name}.tmp"
        new.write_text(text)
        new.replace(folder / name)
