"""Trials in the order of their validation score.

Never in the order of a test number: whoever chooses by test images reports how well they chose, not how well it works.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.sweep_trial import Outcome


@dataclass(frozen=True)
class Row:
    """A method in a trial; a trial that came to nothing has one row without a method's numbers."""

    outcome: Outcome
    method: str | None
    validation: dict[str, Any] | None
    test: dict[str, Any] | None


def ranked(outcomes: Sequence[Outcome], score: str) -> list[Row]:
    """Return the rows of all trials, best validation score first, those without one last."""
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    scored = [row for row in rows if mean_of(row, score) is not None]
    rest = [row for row in rows if mean_of(row, score) is None]
    return [*sorted(scored, key=lambda row: -(mean_of(row, score) or 0.0)), *rest]


def _rows(outcome: Outcome) -> list[Row]:
    if not outcome.validation:
        return [Row(outcome, outcome.method, None, None)]
    return [Row(outcome, name, numbers, outcome.test[name]) for name, numbers in outcome.validation.items()]


def mean_of(row: Row, score: str) -> float | None:
    """Return a row's validation score as a fraction, None if it has none."""
    value: float | None = row.validation[score]["mean"] if row.validation else None
    return value


def settings_of(row: Row) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """Return what tells a setting from another: the method and the numbers, not the seeds."""
    return row.method, tuple((key, value) for key, value in row.outcome.settings.items() if key != "seeds")


def best_setting(outcomes: Sequence[Outcome], score: str) -> tuple[list[Row], float] | None:
    """Return the rows of the best setting and the mean of their validation scores; a lucky seed is no setting.

    A setting of which a trial has no score is left out: the mean would be over other seeds than those of the rest.
    """
    settings: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in ranked(outcomes, score):
        settings[settings_of(row)].append(row)
    scores = {key: [mean_of(row, score) for row in rows] for key, rows in settings.items()}
    failed = {numbers for method, numbers in settings if method is None}  # of a trial with all rows: each lacks a seed
    means = {
        key: fmean(all_of) for key, some in scores.items() if (all_of := _all_present(some)) and key[1] not in failed
    }
    if not means:
        return None
    best = max(means, key=lambda key: means[key])
    return settings[best], means[best]


def _all_present(values: Sequence[float | None]) -> list[float]:
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else []
