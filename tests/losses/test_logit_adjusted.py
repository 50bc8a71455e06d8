"""Logit-adjusted cross entropy against its formula, its limits and its relatives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.logit_adjusted import LogitAdjusted
from longtail.seeding import generator
from oracles import adjusted_cross_entropy, balanced_softmax

COUNTS = torch.tensor([500, 81, 20, 3, 1])
START = torch.tensor(0.0)
taus = st.floats(-2, 4)


def sample(seed: int = 0, samples: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "sample")
    logits = 3 * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    return logits, torch.randint(classes, (samples,), generator=draws)


@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=8), taus, st.integers(0, 99))
def test_is_the_formula(counts: list[int], tau: float, seed: int) -> None:
    logits, labels = sample(seed, classes=len(counts))
    losses = LogitAdjusted(tau=tau)(logits, labels, torch.tensor(counts), START)
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = [adjusted_cross_entropy(z, y, counts, tau) for z, y in pairs]
    torch.testing.assert_close(losses, logits.new_tensor(expected), rtol=1e-11, atol=1e-11)


def test_it_is_a_pairwise_margin_of_the_ratio_of_priors() -> None:
    """The paper's other form: log(1 + sum over j != y of (pi_j / pi_y)^tau e^(z_j - z_y))."""
    logits, labels = sample(1)
    losses, pi = LogitAdjusted(tau=1.5)(logits, labels, COUNTS, START), COUNTS.tolist()
    for z, y, value in zip(logits.tolist(), labels.tolist(), losses.tolist(), strict=True):
        others = [(pi[j] / pi[y]) ** 1.5 * math.exp(z[j] - z[y]) for j in range(5) if j != y]
        assert value == pytest.approx(math.log1p(math.fsum(others)), rel=1e-10)


def test_with_tau_1_it_is_the_balanced_softmax() -> None:
    logits, labels = sample(2)
    losses = LogitAdjusted(tau=1)(logits, labels, COUNTS, START).tolist()
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    assert losses == pytest.approx([balanced_softmax(z, y, COUNTS.tolist()) for z, y in pairs])


def test_without_tau_it_is_cross_entropy() -> None:
    logits, labels = sample(3)
    plain = CrossEntropy()(logits, labels, COUNTS, START)
    assert LogitAdjusted(tau=0)(logits, labels, COUNTS, START).equal(plain)
    with_empty = torch.tensor([500, 81, 20, 3, 0])
    assert LogitAdjusted(tau=0)(logits, labels, with_empty, START).equal(plain)


@given(st.integers(1, 1000), taus)
def test_with_equal_counts_it_is_cross_entropy(count: int, tau: float) -> None:
    logits, labels = sample(4)
    plain = CrossEntropy()(logits, labels, COUNTS, START)
    torch.testing.assert_close(LogitAdjusted(tau=tau)(logits, labels, torch.full((5,), count), START), plain)


@given(st.floats(0, 0.999))
def test_graloss_is_this_loss_with_a_growing_tau(t: float) -> None:
    logits, labels = sample(5)
    gradual, progress = GradualBalanced(form="convex", s=1, c=2), torch.tensor(t, dtype=torch.float64)
    fixed = LogitAdjusted(tau=float(gradual.alpha(progress)))
    torch.testing.assert_close(
        gradual(logits, labels, COUNTS, progress), fixed(logits, labels, COUNTS, START), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_class_without_images_does_not_compete(dtype: torch.dtype, tau: float) -> None:
    logits, labels = sample(6)
    logits, labels = logits.to(dtype).requires_grad_(), labels % 4
    loss, counts = LogitAdjusted(tau=tau), torch.tensor([500, 81, 20, 3, 0])
    losses = loss(logits, labels, counts, START)
    torch.testing.assert_close(losses, loss(logits[:, :4], labels, COUNTS[:4], START))
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert slope.isfinite().all()
    assert (slope[:, 4] == 0).all()


def test_gradient_is_right() -> None:
    logits, labels = sample(7)
    loss = LogitAdjusted(tau=1.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, COUNTS, START), logits.requires_grad_())
