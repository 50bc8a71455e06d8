"""Re-weighting against exact fractions, and the weighted mean against torch's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from longtail.losses import Loss
from longtail.losses.am_softmax import AMSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.focal import Focal
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.ldam import LDAM
from longtail.seeding import generator
from longtail.training.objective import Objective, Reweighting
from oracles import (
    adjusted_cross_entropy,
    am_softmax,
    class_balanced_weights,
    focal,
    gradual_alpha,
    ldam,
    weighted_mean,
)

COUNTS = torch.tensor([500, 81, 20, 3, 1])
CLASS_BALANCED = Reweighting(beta=0.9999, start=0, divisor="weights")
DEFERRED = Reweighting(beta=0.9999, start=0.8, divisor="weights")


def at(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def sample(seed: int = 0, samples: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "sample")
    logits = 2 * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    return logits, torch.randint(classes, (samples,), generator=draws)


# --- class weights -----------------------------------------------------------------------------------------------

betas = st.one_of(
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-7, 1 - 1e-12, 1 - 2**-53, 1.0, 1e-300]), st.floats(0, 1)
)


@example(beta=1 - 1e-12, counts=[5000, 137, 20, 3, 1])  # where 1 - beta^n has lost its digits
@example(beta=1 - 1e-7, counts=[5000, 137, 20, 3, 1])
@given(betas, st.lists(st.integers(1, 5000), min_size=1, max_size=12))
def test_weights_are_the_inverse_effective_numbers(beta: float, counts: list[int]) -> None:
    weights = Reweighting(beta=beta, start=0, divisor="weights").class_weights(torch.tensor(counts))
    expected = torch.tensor(class_balanced_weights(beta, counts), dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-11, atol=0)


def test_beta_0_weighs_nothing() -> None:
    assert (
        Reweighting(beta=0, start=0, divisor="weights").class_weights(COUNTS).equal(torch.ones(5, dtype=torch.float64))
    )


def test_beta_1_weighs_by_the_inverse_count() -> None:
    weights = Reweighting(beta=1, start=0, divisor="weights").class_weights(COUNTS)
    torch.testing.assert_close(weights * COUNTS / weights[-1], torch.ones(5, dtype=torch.float64))


@given(betas, st.integers(1, 5000))
def test_equal_counts_weigh_nothing(beta: float, count: int) -> None:
    weights = Reweighting(beta=beta, start=0, divisor="weights").class_weights(torch.full((7,), count))
    torch.testing.assert_close(weights, torch.ones(7, dtype=torch.float64))


@given(betas, st.lists(st.integers(1, 5000), min_size=2, max_size=12))
def test_weights_average_to_one_and_never_favour_the_larger_class(beta: float, counts: list[int]) -> None:
    weights = Reweighting(beta=beta, start=0, divisor="weights").class_weights(torch.tensor(sorted(counts)))
    assert float(weights.mean()) == pytest.approx(1, abs=1e-12)
    assert (weights.diff() <= 1e-9).all()
    assert (weights > 0).all()


@pytest.mark.parametrize(
    ("classes", "largest", "beta", "head", "tail"),
    [(10, 5000, 0.9999, 0.051, 3.99), (100, 500, 0.9999, 0.045, 4.38)],
)
def test_weights_are_those_published(classes: int, largest: int, beta: float, head: float, tail: float) -> None:
    """CIFAR-10 and CIFAR-100 at imbalance 100 with the LDAM repository's per_cls_weights."""
    counts = torch.tensor([int(largest * 0.01 ** (k / (classes - 1))) for k in range(classes)])
    weights = Reweighting(beta=beta, start=0, divisor="weights").class_weights(counts)
    assert float(weights[0]) == pytest.approx(head, abs=6e-4)
    assert float(weights[-1]) == pytest.approx(tail, abs=6e-3)


@pytest.mark.parametrize("row", [{"beta": -0.1}, {"beta": 1.1}, {"start": 1.5}, {"divisor": "samples"}])
def test_what_no_row_can_mean_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"than or equal to [01]|'weights' or 'batch'"):
        Reweighting.model_validate({"beta": 0.9, "start": 0, "divisor": "batch", **row})


# --- the objective ------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 40))
def test_unweighted_it_is_torchs_cross_entropy(seed: int, samples: int) -> None:
    logits, labels = sample(seed, samples)
    value = Objective(CrossEntropy(), None, COUNTS)(logits, labels, at(0.3))
    torch.testing.assert_close(value, F.cross_entropy(logits, labels), rtol=1e-12, atol=1e-12)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_weighted_it_is_torchs_weighted_cross_entropy(seed: int, samples: int) -> None:
    logits, labels = sample(seed, samples)
    objective = Objective(CrossEntropy(), CLASS_BALANCED, COUNTS)
    expected = F.cross_entropy(logits, labels, objective.class_weights.double())
    torch.testing.assert_close(objective(logits, labels, at(0.0)), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 199), st.booleans())
def test_loss_class_weights_and_sample_weights_together(epoch: int, mixed: bool) -> None:
    logits, labels = sample(epoch)
    weights = torch.rand(12, dtype=torch.float64, generator=generator(epoch, "weights")) + 0.1
    objective = Objective(GradualBalanced(form="convex", s=1, c=2), DEFERRED, COUNTS)
    value = objective(logits, labels, at(epoch / 200), weights if mixed else None)

    a, counts = gradual_alpha(1, 2, epoch, 200), COUNTS.tolist()
    class_weights = class_balanced_weights(0.9999, counts) if epoch >= 160 else [1.0] * 5
    pairs = list(zip(logits.tolist(), labels.tolist(), strict=True))
    losses = [adjusted_cross_entropy(z, y, counts, a) for z, y in pairs]
    per_sample = [class_weights[y] * (w if mixed else 1.0) for (_, y), w in zip(pairs, weights.tolist(), strict=True)]
    assert float(value) == pytest.approx(weighted_mean(losses, per_sample), rel=1e-6)  # class weights are float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deferral_switches_at_epoch_160_of_200(dtype: torch.dtype) -> None:
    """The first epoch at lr 1e-3 of the LDAM schedule, not one before and not one after."""
    logits, labels = sample()
    deferred, balanced = (Objective(CrossEntropy(), r, COUNTS) for r in (DEFERRED, CLASS_BALANCED))
    plain = Objective(CrossEntropy(), None, COUNTS)
    for epoch in range(200):
        t = torch.tensor(epoch / 200, dtype=dtype)
        expected = balanced if epoch >= 160 else plain
        assert deferred(logits, labels, t).equal(expected(logits, labels, t)), f"epoch {epoch}"


@pytest.mark.parametrize(("epochs", "first"), [(1, None), (2, None), (5, 4), (10, 8), (300, 240), (7, 6)])
def test_deferral_reads_a_share_of_any_training(epochs: int, first: int | None) -> None:
    logits, labels = sample()
    deferred, plain = (Objective(CrossEntropy(), r, COUNTS) for r in (DEFERRED, None))
    values = [(deferred(logits, labels, at(e / epochs)), plain(logits, labels, at(e / epochs))) for e in range(epochs)]
    switched = [epoch for epoch, (a, b) in enumerate(values) if not a.equal(b)]
    assert switched == ([] if first is None else list(range(first, epochs)))


@pytest.mark.parametrize("reweighting", [None, CLASS_BALANCED], ids=["plain", "class-balanced"])
def test_a_common_factor_of_the_weights_cancels(reweighting: Reweighting | None) -> None:
    logits, labels = sample()
    objective = Objective(CrossEntropy(), reweighting, COUNTS)
    weights = torch.rand(12, dtype=torch.float64, generator=generator(0, "weights")) + 0.1
    once, more = (objective(logits, labels, at(0.9), factor * weights) for factor in (1, 1000))
    torch.testing.assert_close(once, more, rtol=1e-12, atol=1e-12)


def test_a_batch_of_one_class_weighs_nothing() -> None:
    logits, _ = sample()
    labels = torch.full((12,), 4)
    balanced, plain = (Objective(CrossEntropy(), r, COUNTS) for r in (CLASS_BALANCED, None))
    torch.testing.assert_close(balanced(logits, labels, at(0)), plain(logits, labels, at(0)))


def test_gradient_is_right() -> None:
    logits, labels = sample()
    objective = Objective(GradualBalanced(form="convex", s=1, c=2), DEFERRED, COUNTS)
    assert torch.autograd.gradcheck(lambda z: objective(z, labels, at(0.9)), logits.requires_grad_())


def test_it_leaves_no_trace_in_a_state_and_keeps_its_own_counts() -> None:
    counts = COUNTS.clone()
    objective = Objective(CrossEntropy(), DEFERRED, counts)
    counts.zero_()
    assert objective.class_counts.equal(COUNTS)
    assert objective.state_dict() == {}
    assert list(objective.parameters()) == []


# --- the named pairs of a loss and weights ------------------------------------------------------------------------


def expected(losses: list[float], labels: Tensor, class_weights: list[float]) -> float:
    """Return the weighted mean over samples, as torch's `weight=` has it."""
    return weighted_mean(losses, [class_weights[y] for y in labels.tolist()])


def cosines(seed: int) -> tuple[Tensor, Tensor]:
    logits, labels = sample(seed)
    return logits.tanh(), labels


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@given(st.integers(0, 1000))
def test_class_balanced_focal_modulates_by_the_unweighted_probability(gamma: float, seed: int) -> None:
    """CB focal (Cui et al.) with softmax: w_y (1 - p_y)^gamma (-log p_y), over the sum of w_y."""
    logits, labels = sample(seed)
    loss = Focal(gamma=gamma, modulating_factor="unweighted")
    value = Objective(loss, CLASS_BALANCED, COUNTS)(logits, labels, at(0))
    weights = class_balanced_weights(0.9999, COUNTS.tolist())
    pairs = list(zip(logits.tolist(), labels.tolist(), strict=True))
    assert float(value) == pytest.approx(expected([focal(z, y, gamma) for z, y in pairs], labels, weights), rel=1e-6)


def released_focal(logits: Tensor, labels: Tensor, weights: list[float], gamma: float) -> float:
    """losses.py of LDAM-DRW and of RSG: F.cross_entropy(reduction="none", weight=w), then focal_loss(..., gamma)."""
    values = F.cross_entropy(logits, labels, reduction="none", weight=torch.tensor(weights, dtype=logits.dtype))
    p = torch.exp(-values)
    return float(((1 - p) ** gamma * values).mean())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@given(st.integers(0, 1000))
def test_class_balanced_focal_as_released(gamma: float, seed: int) -> None:
    """p = exp(-w CE), and a mean over the batch."""
    logits, labels = sample(seed)
    released = Reweighting(beta=0.9999, start=0, divisor="batch")
    value = Objective(Focal(gamma=gamma, modulating_factor="weighted"), released, COUNTS)(logits, labels, at(0))
    weights = class_balanced_weights(0.9999, COUNTS.tolist())
    assert float(value) == pytest.approx(released_focal(logits, labels, weights, gamma), rel=1e-6)


@pytest.mark.parametrize(("factor", "divisor"), [("unweighted", "batch"), ("weighted", "weights")])
def test_each_half_of_the_released_form_changes_the_loss(factor: Any, divisor: Any) -> None:
    """With w = 4 and CE = 0.2, p is 0.45 instead of 0.82."""
    logits, labels = sample(3)
    reweighting = Reweighting(beta=0.9999, start=0, divisor=divisor)
    value = float(Objective(Focal(gamma=1, modulating_factor=factor), reweighting, COUNTS)(logits, labels, at(0)))
    weights = class_balanced_weights(0.9999, COUNTS.tolist())
    assert value != pytest.approx(released_focal(logits, labels, weights, 1), rel=0.01)


@pytest.mark.parametrize("t", [0.0, 0.9])
def test_the_batch_as_divisor_is_a_plain_mean_of_weighted_losses(t: float) -> None:
    logits, labels = sample(5)
    weights = class_balanced_weights(0.9999 if t >= 0.8 else 0.0, COUNTS.tolist())
    each = F.cross_entropy(logits, labels, reduction="none", weight=torch.tensor(weights, dtype=torch.float64))
    value = Objective(CrossEntropy(), Reweighting(beta=0.9999, start=0.8, divisor="batch"), COUNTS)(
        logits, labels, at(t)
    )
    assert float(value) == pytest.approx(float(each.mean()), rel=1e-6)


def test_samples_own_weights_enter_either_divisor() -> None:
    """Two mixed labels of 0.3 and 0.7 are one sample: both divisors count it once."""
    logits, labels = sample(6)
    own = torch.rand(len(labels), dtype=torch.float64, generator=generator(0, "own"))
    weights = torch.tensor(class_balanced_weights(0.9999, COUNTS.tolist()), dtype=torch.float64)[labels]
    each = F.cross_entropy(logits, labels, reduction="none")
    for divisor, below in (("weights", (weights * own).sum()), ("batch", own.sum())):
        objective = Objective(CrossEntropy(), Reweighting(beta=0.9999, start=0, divisor=divisor), COUNTS)
        expected_value = float((weights * own * each).sum() / below)
        assert float(objective(logits, labels, at(0), own)) == pytest.approx(expected_value, rel=1e-6)


PAIRS: list[tuple[Loss, Callable[[list[float], int], float]]] = [
    (LDAM(max_margin=0.5, scale=30), lambda z, y: ldam(z, y, COUNTS.tolist(), 0.5, 30)),  # LDAM-DRW
    (AMSoftmax(margin=0.35, scale=30), lambda z, y: am_softmax(z, y, 0.35, 30)),  # M-DRW
]


@pytest.mark.parametrize(("loss", "formula"), PAIRS, ids=["LDAM-DRW", "M-DRW"])
@pytest.mark.parametrize("epoch", [0, 159, 160, 199])
@given(st.integers(0, 1000))
def test_margins_with_deferred_weights(
    loss: Loss, formula: Callable[[list[float], int], float], epoch: int, seed: int
) -> None:
    """LDAM repository: per_cls_weights of beta 0 before epoch 160, of 0.9999 then, given to F.cross_entropy."""
    logits, labels = cosines(seed)
    value = Objective(loss, DEFERRED, COUNTS)(logits, labels, at(epoch / 200))
    weights = class_balanced_weights(0.9999 if epoch >= 160 else 0.0, COUNTS.tolist())
    assert math.fsum(weights) == pytest.approx(5)
    losses = [formula(z, y) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert float(value) == pytest.approx(expected(losses, labels, weights), rel=1e-6)


@pytest.mark.parametrize("loss", [pair[0] for pair in PAIRS], ids=["LDAM-DRW", "M-DRW"])
def test_before_its_start_a_deferred_weight_is_exactly_one(loss: Loss) -> None:
    logits, labels = cosines(4)
    deferred, plain = (Objective(loss, reweighting, COUNTS) for reweighting in (DEFERRED, None))
    for epoch in (0, 100, 159):
        assert deferred(logits, labels, at(epoch / 200)).equal(loss(logits, labels, COUNTS, at(0)).mean())
        assert deferred(logits, labels, at(epoch / 200)).equal(plain(logits, labels, at(epoch / 200)))


FOCAL: list[Loss] = [Focal(gamma=2, modulating_factor="unweighted"), Focal(gamma=2, modulating_factor="weighted")]


@pytest.mark.parametrize("loss", [*(pair[0] for pair in PAIRS), *FOCAL], ids=repr)
@pytest.mark.parametrize("t", [0.5, 0.9])
def test_gradient_of_the_pairs_is_right(loss: Loss, t: float) -> None:
    logits, labels = cosines(5)
    objective = Objective(loss, DEFERRED, COUNTS)
    assert torch.autograd.gradcheck(lambda z: objective(z, labels, at(t)), logits.requires_grad_())
