"""What the gate decided, in words, as tables and as numbers: percent with one decimal, differences in points."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longtail.markdown import cell, table

OVERALL, CALIBRATION = "overall", "calibration"
TITLES = {
    OVERALL: "balanced accuracy",
    "many": "many-shot accuracy",
    "medium": "medium-shot accuracy",
    "few": "few-shot accuracy",
    CALIBRATION: "expected calibration error",
}
MAX_CLASSES = 20  # rows of the table of classes
MAX_SENTENCES = 4  # of failing checks in the reason: the balanced accuracy and the three groups fit
MAX_NAME = 200  # characters of a metric's name; MLflow takes 250

ClassRow = tuple[int, float | None, float | None]  # held-out images, accuracy of champion, of challenger


@dataclass(frozen=True)
class Check:
    """One condition on the challenger.

    Args:
        name: "overall" (balanced accuracy), "many", "medium", "few", "class cat", "calibration", "new class cat".
        champion: accuracy or calibration error, a fraction; None for a new class.
        challenger: the same of the challenger.
        difference: challenger - champion; None for a new class.
        low, high: interval of the difference; None for calibration and for a new class.
        confidence: of that interval.
        bound: what must hold: overall: low >= bound; groups and classes: difference >= bound; calibration:
            difference <= bound; a new class: challenger >= bound.
        passed: whether it holds.
    """

    name: str
    champion: float | None
    challenger: float
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    bound: float
    passed: bool

    @property
    def title(self) -> str:
        """Name what is measured."""
        return TITLES.get(self.name, f"accuracy of {self.name}")

    @property
    def sentence(self) -> str:
        """Say what was measured and what was required, without capital and full stop."""
        if self.difference is None:
            verb = "reaches" if self.passed else "is below"
            return f"{self.title} is {_points(self.challenger)} %, which {verb} the floor of {_points(self.bound)} %"
        return f"{self.title} {_change(self.difference)}{self._interval}, {self._verdict}"

    def row(self) -> list[str]:
        """Return the cells of the table of checks."""
        sign = "≤" if self.name == CALIBRATION else "≥"
        bound = f"{sign} {_points(self.bound) if self.difference is None else _signed(self.bound)}"
        return [
            self.title,
            _points(self.champion),
            _points(self.challenger),
            f"{_signed(self.difference)}{self._interval}",
            f"lower end {bound}" if self.name == OVERALL else bound,
            "passed" if self.passed else "**failed**",
        ]

    def numbers(self) -> dict[str, float]:
        """Return the numbers as metrics; of a class's name, what MLflow does not take becomes an underscore."""
        name = re.sub(r"[^\w\- ]", "_", self.name)[:MAX_NAME]
        keys = ("champion", "challenger", "difference", "low", "high", "bound", "passed")
        values = {key: getattr(self, key) for key in keys}
        return {f"{name}.{key}": float(value) for key, value in values.items() if value is not None}

    @property
    def _interval(self) -> str:
        if self.low is None:
            return ""
        return f" ({100 * self.confidence:g} % interval {_points(self.low)} to {_points(self.high)})"

    @property
    def _verdict(self) -> str:
        if self.name == OVERALL:
            verb = "reaches" if self.passed else "is below"
            return f"whose lower end {verb} the minimum gain of {_points(self.bound)}"
        return f"{'within' if self.passed else 'more than'} its allowance of {_points(abs(self.bound))}"


@dataclass(frozen=True)
class Decision:
    """Whether a challenger may replace the champion, and why.

    Args:
        checks: all conditions, the balanced accuracy first.
        per_class: class -> held-out images and both models' accuracies; None for a model that does not know the
            class, and for a class without image.
        new_classes: those that only the challenger has; one without held-out image has no check.
        vanished_classes: those that only the champion has.
    """

    checks: tuple[Check, ...]
    per_class: Mapping[str, ClassRow]
    new_classes: tuple[str, ...]
    vanished_classes: tuple[str, ...]

    @property
    def promote(self) -> bool:
        """Say whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Say in one or two sentences what decided: the gain, or the checks that failed."""
        if self.promote:
            return f"Passed: {self.checks[0].sentence}; no other check failed."
        failed = [check.sentence for check in self.checks if not check.passed]
        text = f"Refused: {'; '.join(failed[:MAX_SENTENCES])}."
        more = len(failed) - MAX_SENTENCES
        return f"{text} {more} more {'check' if more == 1 else 'checks'} failed." if more > 0 else text

    def markdown(self) -> str:
        """Return the table of checks, and that of the classes whose accuracy changed most."""
        checks = table(
            ["check", "champion", "challenger", "difference", "bound", "verdict"],
            [check.row() for check in self.checks],
        )
        classes = table(
            ["class", "held-out images", "champion", "challenger", "difference"],
            [[name, str(row[0]), *map(_points, row[1:]), _signed(_gain(row))] for name, row in self._most_changed()],
        )
        few = len(self.per_class) <= MAX_CLASSES
        heading = "## Classes" if few else f"## The {MAX_CLASSES} classes that changed most"
        note = "Accuracies and errors in percent, differences in points."
        return "\n".join(["## Checks", "", *checks, "", note, "", heading, "", *classes, "", *self._changed_classes()])

    def numbers(self) -> dict[str, float]:
        """Return metrics: promote (0 or 1), and overall.champion, overall.low, few.difference, few.passed, ..."""
        numbers = {"promote": float(self.promote)}
        for check in self.checks:
            numbers |= check.numbers()
        return numbers

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        return {
            "promote": self.promote,
            "reason": self.reason,
            "checks": [asdict(check) for check in self.checks],
            "per_class": {name: list(row) for name, row in self.per_class.items()},
            "new_classes": list(self.new_classes),
            "vanished_classes": list(self.vanished_classes),
        }

    def _most_changed(self) -> list[tuple[str, ClassRow]]:
        """Return the largest changes first, then classes that only one model has; equal ones by name."""

        def place(item: tuple[str, ClassRow]) -> tuple[float, str]:
            gain = _gain(item[1])
            return (1.0 if gain is None else -abs(gain), item[0])

        return sorted(self.per_class.items(), key=place)[:MAX_CLASSES]

    def _changed_classes(self) -> list[str]:
        kinds = {"New": self.new_classes, "Vanished": self.vanished_classes}
        return [f"- {kind} classes: {', '.join(map(cell, names))}." for kind, names in kinds.items() if names]


def _gain(row: ClassRow) -> float | None:
    _, champion, challenger = row
    return None if champion is None or challenger is None else challenger - champion


def _change(difference: float) -> str:
    if difference == 0:
        return "did not change"
    return f"{'rose' if difference > 0 else 'fell'} by {_points(abs(difference))} points"


def _points(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction + 0.0:.1f}"  # + 0.0: no -0.0 where nothing changed


def _signed(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction + 0.0:+.1f}"
