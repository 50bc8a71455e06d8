"""Balanced softmax against its formula, its limits and its relatives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.losses.balanced_softmax import BalancedSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.logit_adjusted import LogitAdjusted
from longtail.seeding import generator
from oracles import balanced_softmax, cross_entropy

LOSS = BalancedSoftmax()
COUNTS = torch.tensor([500, 81, 20, 3, 1])
START = torch.tensor(0.0)


def sample(seed: int = 0, samples: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "sample")
    logits = 3 * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    return logits, torch.randint(classes, (samples,), generator=draws)


@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=8), st.integers(0, 99))
def test_is_the_formula(counts: list[int], seed: int) -> None:
    logits, labels = sample(seed, classes=len(counts))
    losses = LOSS(logits, labels, torch.tensor(counts), START)
    expected = [balanced_softmax(z, y, counts) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(losses, logits.new_tensor(expected), rtol=1e-11, atol=1e-11)


@given(st.integers(1, 1000))
def test_with_equal_counts_it_is_cross_entropy(count: int) -> None:
    logits, labels = sample(1)
    plain = CrossEntropy()(logits, labels, COUNTS, START)
    torch.testing.assert_close(LOSS(logits, labels, torch.full((5,), count), START), plain)


def test_its_relatives_are_the_same_loss() -> None:
    logits, labels = sample(2)
    losses = LOSS(logits, labels, COUNTS, START)
    torch.testing.assert_close(LogitAdjusted(tau=1)(logits, labels, COUNTS, START), losses)
    end = torch.tensor(1.0, dtype=torch.float64)
    gradual = GradualBalanced(form="convex", s=1, c=2)(logits, labels, COUNTS, end)
    torch.testing.assert_close(gradual, losses)


def test_equal_logits_cost_a_class_the_log_of_its_share() -> None:
    losses = LOSS(torch.zeros(5, 5), torch.arange(5), COUNTS, START)
    torch.testing.assert_close(losses.exp(), COUNTS.sum() / COUNTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_class_without_images_does_not_compete(dtype: torch.dtype) -> None:
    logits, labels = (part.clone() for part in sample(3))
    logits, labels = logits.to(dtype).requires_grad_(), labels % 4
    losses = LOSS(logits, labels, torch.tensor([500, 81, 20, 3, 0]), START)
    torch.testing.assert_close(losses, LOSS(logits[:, :4], labels, COUNTS[:4], START))
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert slope.isfinite().all()
    assert (slope[:, 4] == 0).all()
    expected = [cross_entropy([*row], y) for row, y in zip(logits[:, :4].tolist(), labels.tolist(), strict=True)]
    equal = LOSS(logits, labels, torch.tensor([7, 7, 7, 7, 0]), START)
    assert equal.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_gradient_is_right() -> None:
    logits, labels = sample(4)
    assert torch.autograd.gradcheck(lambda z: LOSS(z, labels, COUNTS, START), logits.requires_grad_())
