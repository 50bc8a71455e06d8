"""Champions and challengers for the tests of the gate: with chosen accuracies, or any at all."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from longtail.retraining.gate import Answers, Check, Decision, Gate, judge

ANIMALS = ("cow", "dog", "elk", "fox", "gnu")
GROUPS = {"many": ["cow", "dog"], "medium": ["elk"], "few": {"fox", "gnu"}}
Right = Mapping[str, tuple[int, int]]  # class -> images that champion and challenger get right, of IMAGES
IMAGES = 20
SAME: Right = dict.fromkeys(ANIMALS, (16, 16))


def a_gate(**changes: Any) -> Gate:
    """A gate that lets everything pass but what is changed; `many` ... and `classes` are allowances."""
    allowances = {"many": 1, "medium": 1, "few": 1, "classes": {}}
    row = {"minimum_gain": -1, "confidence": 0.9, "resamples": 500, "calibration": 1, "new_classes": 0}
    allowances |= {key: changes.pop(key) for key in list(changes) if key in allowances}
    return Gate.model_validate({**row, **changes, "allowances": allowances})


def answers(classes: Sequence[str], answered: Sequence[str], confidence: float = 0.8) -> Answers:
    """A model that gives these answers, all with the same confidence."""
    probabilities = torch.full((len(answered), len(classes)), (1 - confidence) / (len(classes) - 1))
    probabilities[range(len(answered)), [classes.index(name) for name in answered]] = confidence
    return Answers(tuple(classes), probabilities)


def models(right: Right, confidence: float = 0.8, extra: str = "") -> tuple[Answers, Answers, list[str]]:
    """Champion, challenger and truth of IMAGES images per class; `extra` is a class that the champion lacks."""
    truth = [name for name in right for _ in range(IMAGES)]
    given: list[list[str]] = [[], []]
    for name, counts in right.items():
        wrong = ANIMALS[ANIMALS.index(name) - 1] if name in ANIMALS else ANIMALS[0]
        for model, count in enumerate(counts):
            given[model] += [name if i < count else wrong for i in range(IMAGES)]
    return answers(ANIMALS, given[0]), answers((*ANIMALS, extra) if extra else ANIMALS, given[1], confidence), truth


def decide(gate: Gate, right: Right, confidence: float = 0.8, extra: str = "", seed: int = 0) -> Decision:
    champion, challenger, truth = models(right, confidence, extra)
    return judge(gate, champion, challenger, truth, GROUPS, seed)


def check_of(decision: Decision, name: str) -> Check:
    (found,) = [check for check in decision.checks if check.name == name]
    return found


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


POOL = ["ant", "bee", "cat", "dog", "eel"]
Case = tuple[Answers, Answers, list[str]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Two models of different classes in any order, which share one at least, with an image."""
    shared = draw(st.sampled_from(POOL))
    sets = [sorted({shared, *draw(st.sets(st.sampled_from(POOL), min_size=2))}) for _ in range(2)]
    truth = [shared, *draw(st.lists(st.sampled_from(POOL), max_size=30))]
    source = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    first, second = (
        Answers(tuple(draw(st.permutations(names))), torch.randn(len(truth), len(names), generator=source).softmax(1))
        for names in sets
    )
    return first, second, truth
