"""The gate: a new model (challenger) replaces the one that is served (champion) only if it is better where it matters.

Both answer the same held-out images, each as it is served: the most probable of all its own classes. Classes that both
know are compared, by name:

    gain = mean over shared classes k of (accuracy of challenger on k - accuracy of champion on k)

The lower end of the gain's interval must reach the minimum gain. The same mean over the many-, medium- and few-shot
classes, and each class that the user names, may fall by no more than its allowance: there the estimate itself decides,
because an interval of few images is too wide to forbid anything; it is reported. The calibration error on the images of
shared classes may rise by no more than its allowance, and each class that is new to the champion needs some accuracy.

How the intervals are drawn: longtail.retraining.bootstrap.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field

from longtail.evaluation import GROUPS, calibration_error
from longtail.retraining.bootstrap import Answers, Floats, Pairs, class_rows, interval, pair, resampled_gains
from longtail.retraining.decision import CALIBRATION, OVERALL, Check, ClassRow, Decision
from longtail.spec import InputError, Spec, no_number

__all__ = ["Allowances", "Answers", "Check", "Decision", "Gate", "judge"]

ROUNDING = 1e-9  # 0.60 - 0.55 is not quite 0.05


def _a_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(no_number(value))
    return value


Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_a_number)]


class Allowances(Spec):
    """By how much an accuracy may fall, as a fraction: 0.05 is five points.

    Args:
        many, medium, few: of the mean accuracy of these classes.
        classes: class name -> of this class alone.
    """

    many: Fraction
    medium: Fraction
    few: Fraction
    classes: dict[str, Fraction]


class Gate(Spec):
    """What a challenger must hold against the champion; every number is a fraction.

    Args:
        minimum_gain: the lower end of the gain in balanced accuracy must reach it; negative tolerates a loss.
        confidence: of the two-sided intervals.
        resamples: of the bootstrap.
        allowances: by how much groups and named classes may fall.
        calibration: by how much the expected calibration error may rise.
        new_classes: the smallest accuracy of each class that the champion does not have.
    """

    minimum_gain: float = Field(ge=-1, le=1)
    confidence: float = Field(gt=0, lt=1)
    resamples: int = Field(ge=100)
    allowances: Allowances
    calibration: Fraction
    new_classes: Fraction


def judge(
    gate: Gate,
    champion: Answers,
    challenger: Answers,
    truth: Sequence[str],
    groups: Mapping[str, Collection[str]],
    seed: int = 0,
) -> Decision:
    """Decide whether a challenger may replace the champion.

    Args:
        truth: the class of each of the N held-out images; one of a class that no model knows is ignored.
        groups: "many", "medium", "few" -> class names; a group without a class that is compared has no check.
        seed: of the bootstrap; equal seeds give equal decisions.

    Raises:
        InputError: a probability is not a finite number, there is no image of a class that both models know, or
            `allowances.classes` names a class that no model knows or that has no image to judge it by.
    """
    assert len(truth) == len(champion.probabilities) == len(challenger.probabilities), "the same images"
    assert set(groups) <= set(GROUPS), groups
    _check_finite(
        champion, "champion", "Go back to the version before it: python -m longtail.tracking.registry rollback"
    )
    _check_finite(challenger, "challenger", "Lower the learning rate of its plan")
    _check_classes(gate, champion, challenger, truth)
    rows, pairs = class_rows(champion, challenger, truth), pair(champion, challenger, truth)
    new = tuple(sorted({*challenger.classes} - {*champion.classes}))
    vanished = tuple(sorted({*champion.classes} - {*challenger.classes}))
    checks = (
        *_accuracy_checks(gate, pairs, groups, seed),
        _calibration_check(gate, champion, challenger, truth),
        *_new_class_checks(gate, new, rows),
    )
    return Decision(checks, rows, new, vanished)


def _check_finite(answers: Answers, who: str, remedy: str) -> None:
    broken = int((~answers.probabilities.isfinite()).any(1).sum())
    if broken:
        raise InputError(
            f"The {who}'s probabilities of {broken} of {len(answers.probabilities)} held-out images are not finite "
            f"numbers, so it cannot be judged. {remedy}."
        )


def _check_classes(gate: Gate, champion: Answers, challenger: Answers, truth: Sequence[str]) -> None:
    shared = {*champion.classes} & {*challenger.classes}
    if not shared:
        raise InputError(
            "The champion and the challenger have no class in common, so they cannot be compared. "
            "Give the new model a name of its own in retrain.name."
        )
    if not shared & {*truth}:
        raise InputError(
            "No held-out image is of a class that both the champion and the challenger know, so they cannot be "
            "compared. Hold out images of their classes: set data.test_per_class to 20."
        )
    for name in gate.allowances.classes:
        if name not in {*champion.classes, *challenger.classes}:
            raise InputError(
                f"retrain.gate.allowances.classes names {name}, a class that no model knows. "
                "Spell it as the data does, or remove it."
            )
        if name in shared and name not in truth:
            raise InputError(
                f"retrain.gate.allowances.classes names {name}, a class of which no image is held out. "
                "Hold out images of it, or remove it."
            )


def _accuracy_checks(gate: Gate, pairs: Pairs, groups: Mapping[str, Collection[str]], seed: int) -> list[Check]:
    """Check the balanced accuracy, then the groups, then the classes that the user names."""
    allowed = gate.allowances
    sets = {OVERALL: pairs.among(pairs.names)}
    sets |= {group: pairs.among(groups.get(group, ())) for group in GROUPS}
    sets |= {f"class {name}": pairs.among([name]) for name in allowed.classes}
    sets = {name: members for name, members in sets.items() if members.any()}
    bounds = {OVERALL: gate.minimum_gain, "many": -allowed.many, "medium": -allowed.medium, "few": -allowed.few}
    bounds |= {f"class {name}": -allowance for name, allowance in allowed.classes.items()}
    gains = resampled_gains(pairs.outcomes, sets, gate.resamples, seed)
    means = {name: pairs.accuracies[:, members].mean(1) for name, members in sets.items()}
    return [_accuracy_check(gate, name, means[name], gains[name], bounds[name]) for name in sets]


def _accuracy_check(gate: Gate, name: str, means: Floats, gains: Floats, bound: float) -> Check:
    """Compare two mean accuracies, given as (2,), of which resampled gains are known."""
    before, after = means.tolist()
    low, high = interval(gains, gate.confidence)
    passed = (low if name == OVERALL else after - before) >= bound - ROUNDING
    return Check(name, before, after, after - before, low, high, gate.confidence, bound, passed)


def _calibration_check(gate: Gate, champion: Answers, challenger: Answers, truth: Sequence[str]) -> Check:
    """Compare calibration errors. Without interval: the bootstrap of a sum of absolute values is biased upwards."""
    shared = {*champion.classes} & {*challenger.classes}
    before, after = (_calibration(answers, truth, shared) for answers in (champion, challenger))
    passed = after - before <= gate.calibration + ROUNDING
    return Check(CALIBRATION, before, after, after - before, None, None, gate.confidence, gate.calibration, passed)


def _calibration(answers: Answers, truth: Sequence[str], shared: Collection[str]) -> float:
    """Return the calibration error of a model on the images of some of its classes."""
    index = {name: k for k, name in enumerate(answers.classes)}
    rows = [row for row, name in enumerate(truth) if name in shared]
    labels = torch.tensor([index[truth[row]] for row in rows])
    return calibration_error(answers.probabilities[rows].cpu(), labels)


def _new_class_checks(gate: Gate, new: Sequence[str], rows: Mapping[str, ClassRow]) -> list[Check]:
    """Check the accuracy of new classes; one without image cannot be judged."""
    found = {name: accuracy for name in new if (accuracy := rows[name][2]) is not None}
    floor = gate.new_classes
    return [
        Check(f"new class {name}", None, value, None, None, None, gate.confidence, floor, value >= floor - ROUNDING)
        for name, value in found.items()
    ]
