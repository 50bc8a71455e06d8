"""The rule for beta: a table of its cases, and its formula in plain loops over whole trainings."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.balancers.glag import Adaptation, Confidence

NAN = math.nan
SIGN = {"name": "sign", "step": 0.05, "tolerance": 0.01}


def _adaptation(**changes: Any) -> Adaptation:
    base: dict[str, Any] = {"compare": "previous", "momentum": 0.5, "maximum": 0.9, "rule": SIGN}
    return Adaptation.model_validate(base | changes)


def _vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("case", "beta", "before", "now", "images", "is_head", "expected"),
    [
        ("better", 0.6, 0.4, 0.8, 20, False, 0.6 + 0.05 * 0.75),
        ("worse", 0.6, 0.4, 0.2, 20, False, 0.6 - 0.05 * 0.75),
        ("as before", 0.6, 0.4, 0.4, 20, False, 0.6),
        ("within tolerance", 0.6, 0.4, 0.418, 20, False, 0.6),
        ("just beyond it", 0.6, 0.4, 0.422, 20, False, 0.6 + 0.05 * 0.75),
        ("half an image of many", 0.6, 0.4, 0.418, 1000, False, 0.6 + 0.05 * 0.75),
        ("clipped above", 0.89, 0.4, 0.8, 20, False, 0.9),
        ("clipped below", 0.01, 0.4, 0.2, 20, False, 0.0),
        ("no validation image", 0.6, NAN, NAN, 0, False, 0.6),
        ("head class", 0.0, 0.4, 0.8, 20, True, 0.0),
    ],
)
def test_sign_rule(
    case: str, beta: float, before: float, now: float, images: int, is_head: bool, expected: float
) -> None:
    compare_case(case, beta, before, now, images, is_head, expected)


def compare_case(
    case: str, beta: float, before: float, now: float, images: int, is_head: bool, expected: float
) -> None:
    """Compare one step of the sign rule with what the table says."""
    old = Confidence(_vector(beta), _vector(before), _vector(before))
    new = _adaptation().updated(old, _vector(now), torch.tensor([images]), torch.tensor([is_head]), done=0.25)
    assert new.beta.item() == pytest.approx(expected), case


def _oracle(accuracies: list[float], images: int, compare: str, rule: str, momentum: float) -> list[float]:
    """Methods 5.4 for one class: accuracies[0] is stage one's, the rest follow generation epochs 1 .. G."""
    epochs, beta, averages, betas = len(accuracies) - 1, 0.6, [accuracies[0]], []
    for g in range(1, epochs + 1):
        averages.append(momentum * averages[-1] + (1 - momentum) * accuracies[g])
        reference = {"previous": averages[-2], "stage1": averages[0], "best": max(averages[:-1])}[compare]
        difference = averages[-1] - reference
        if rule == "proportional":
            beta += 0.7 * difference
        elif difference > min(0.01, 1 / (2 * images)):
            beta += 0.05 * (1 - g / epochs)
        elif difference < -min(0.01, 1 / (2 * images)):
            beta -= 0.05 * (1 - g / epochs)
        beta = min(max(beta, 0.0), 0.9)
        betas.append(beta)
    return betas


@given(
    accuracies=st.lists(st.floats(0, 1), min_size=2, max_size=15),
    images=st.integers(1, 100),
    compare=st.sampled_from(["previous", "stage1", "best"]),
    rule=st.sampled_from(["sign", "proportional"]),
    momentum=st.sampled_from([0.0, 0.5, 0.8]),
)
def test_whole_training_follows_the_rule(
    accuracies: list[float], images: int, compare: str, rule: str, momentum: float
) -> None:
    compare_training(accuracies, images, compare, rule, momentum)


def compare_training(accuracies: list[float], images: int, compare: str, rule: str, momentum: float) -> None:
    """Compare beta after each generation epoch of one tail class."""
    rules = {"sign": SIGN, "proportional": {"name": "proportional", "kappa": 0.7}}
    spec = _adaptation(compare=compare, momentum=momentum, rule=rules[rule])
    tail = torch.tensor([False])
    state, betas = Confidence.start(0.6, tail, _vector(accuracies[0])), []
    for g, accuracy in enumerate(accuracies[1:], 1):
        state = spec.updated(state, _vector(accuracy), torch.tensor([images]), tail, g / (len(accuracies) - 1))
        betas.append(state.beta.item())
    assert betas == pytest.approx(_oracle(accuracies, images, compare, rule, momentum), abs=1e-12)


def test_classes_do_not_influence_each_other() -> None:
    spec, generator = _adaptation(), torch.Generator().manual_seed(0)
    start, now = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))
    images, is_head = torch.tensor([5, 10, 20, 40, 80, 160]), torch.tensor([True] + [False] * 5)
    together = spec.updated(Confidence.start(0.4, is_head, start), now, images, is_head, 0.1)
    for k in range(6):
        one = slice(k, k + 1)
        alone = Confidence.start(0.4, is_head[one], start[one])
        assert spec.updated(alone, now[one], images[one], is_head[one], 0.1).beta == together.beta[one]


def test_a_class_without_validation_images_keeps_beta_under_the_proportional_rule_too() -> None:
    spec = _adaptation(rule={"name": "proportional", "kappa": 0.7})
    tail, none = torch.tensor([False]), torch.tensor([0])
    assert spec.updated(Confidence.start(0.6, tail, _vector(NAN)), _vector(NAN), none, tail, 0.5).beta.tolist() == [0.6]


def test_start_gives_beta_to_tail_classes_only() -> None:
    start = Confidence.start(0.6, torch.tensor([True, False]), _vector(0.9, 0.1))
    assert start.beta.tolist() == [0.0, 0.6]
