"""Focal loss against its formula, and where a power below 1 has no slope."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.focal import Focal
from longtail.seeding import generator
from oracles import focal

ONES = torch.ones(3, dtype=torch.int64)
START = torch.tensor(0.0)


@given(st.integers(1, 6), st.integers(2, 9), st.floats(0.01, 5), st.floats(0, 5), st.integers(0, 10**6))
def test_is_the_formula(samples: int, classes: int, size: float, gamma: float, seed: int) -> None:
    draws = generator(seed, "logits")
    logits = size * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    labels = torch.randint(classes, (samples,), generator=draws)
    losses = Focal(gamma=gamma, modulating_factor="unweighted")(logits, labels, torch.ones(classes), START)
    expected = [focal(z, y, gamma) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_gamma_it_is_cross_entropy(dtype: torch.dtype) -> None:
    logits = 9 * torch.randn(32, 3, dtype=dtype, generator=generator(0, "logits"))
    labels = torch.randint(3, (32,), generator=generator(0, "labels"))
    plain = CrossEntropy()(logits, labels, ONES, START)
    assert Focal(gamma=0, modulating_factor="unweighted")(logits, labels, ONES, START).equal(plain)


def test_of_an_undecided_network() -> None:
    """p_y = 1/3, whatever the class."""
    losses = Focal(gamma=2, modulating_factor="unweighted")(torch.full((3, 3), 7.0), torch.arange(3), ONES, START)
    torch.testing.assert_close(losses, torch.full((3,), (2 / 3) ** 2 * math.log(3)))


def test_what_is_known_counts_for_less() -> None:
    """The paper's example: with gamma = 2, a sample at p_y = 0.9 costs a hundredth of its cross entropy."""
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    labels, counts = torch.tensor([0, 0]), torch.tensor([1, 1])
    share = Focal(gamma=2, modulating_factor="unweighted")(logits, labels, counts, START) / CrossEntropy()(
        logits, labels, counts, START
    )
    torch.testing.assert_close(share, torch.tensor([0.01, 0.25]))


def test_without_class_weights_both_forms_are_one() -> None:
    logits = torch.randn(8, 3, generator=generator(1, "logits"))
    labels, ones = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), torch.ones(8)
    outside, inside = (Focal(gamma=2, modulating_factor=form) for form in ("unweighted", "weighted"))
    assert outside.weighted(logits, labels, ONES, START, ones).equal(inside.weighted(logits, labels, ONES, START, ones))


def test_a_weight_inside_makes_a_rare_sample_less_certain() -> None:
    """At w = 4 and CE = 0.2, p is 0.45 instead of 0.82."""
    logits = torch.tensor([[-0.2, torch.tensor(-0.2).exp().neg().log1p()]])
    args = (logits, torch.tensor([0]), torch.ones(2), START, torch.tensor([4.0]))
    torch.testing.assert_close(
        Focal(gamma=1, modulating_factor="weighted").weighted(*args),
        torch.tensor([(1 - 0.4493) * 0.8]),
        rtol=1e-3,
        atol=0,
    )
    torch.testing.assert_close(
        Focal(gamma=1, modulating_factor="unweighted").weighted(*args),
        torch.tensor([4 * (1 - 0.8187) * 0.2]),
        rtol=1e-3,
        atol=0,
    )


@given(st.floats(0, 5), st.floats(0, 5))
def test_the_larger_gamma_the_smaller_the_loss(one: float, other: float) -> None:
    logits, labels = torch.randn(8, 3, generator=generator(1, "logits")), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    small, large = (
        Focal(gamma=g, modulating_factor="unweighted")(logits, labels, ONES, START) for g in sorted((one, other))
    )
    assert (large <= small).all()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("lead", [0.0, 20.0, 40.0, 80.0, 500.0])
def test_gradient_is_finite_where_the_network_is_sure(gamma: float, lead: float) -> None:
    """The slope of x^0.5 at 0 is infinite, and 0 times infinity is no number."""
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[lead, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        loss = Focal(gamma=gamma, modulating_factor="unweighted")(logits, torch.tensor([0]), ONES, START)
        (slope,) = torch.autograd.grad(loss.sum(), logits)
        assert slope.isfinite().all()
        assert loss.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradient_is_right(gamma: float) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, generator=generator(2, "logits")).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(
        lambda z: Focal(gamma=gamma, modulating_factor="unweighted")(z, labels, ONES, START), logits
    )


def test_neither_counts_nor_progress_matter() -> None:
    logits, labels = torch.randn(4, 3, generator=generator(0, "logits")), torch.tensor([0, 1, 2, 0])
    loss = Focal(gamma=1, modulating_factor="unweighted")
    once = loss(logits, labels, ONES, START)
    assert loss(logits, labels, torch.tensor([500, 20, 0]), torch.tensor(0.9)).equal(once)


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Focal(gamma=-1, modulating_factor="unweighted")
