"""LDAM against its formula, its margins against published ones, and both of its limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from longtail.losses.am_softmax import AMSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.ldam import LDAM
from longtail.seeding import generator
from oracles import cross_entropy, ldam, ldam_margins

PUBLISHED = LDAM(max_margin=0.5, scale=30)
COUNTS = torch.tensor([500, 81, 20, 3, 1])
START = torch.tensor(0.0)


def sample(seed: int = 0, samples: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Draw cosines and labels."""
    draws = generator(seed, "sample")
    cosines = 2 * torch.rand(samples, classes, dtype=torch.float64, generator=draws) - 1
    return cosines, torch.randint(classes, (samples,), generator=draws)


@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=8), st.floats(0, 1), st.floats(0.1, 60), st.integers(0, 99))
def test_is_the_formula(counts: list[int], max_margin: float, scale: float, seed: int) -> None:
    cosines, labels = sample(seed, classes=len(counts))
    losses = LDAM(max_margin=max_margin, scale=scale)(cosines, labels, torch.tensor(counts), START)
    pairs = zip(cosines.tolist(), labels.tolist(), strict=True)
    expected = [ldam(z, y, counts, max_margin, scale) for z, y in pairs]
    torch.testing.assert_close(losses, cosines.new_tensor(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("imbalance", "head"), [(100, 0.158), (50, 0.188), (10, 0.281)])
def test_margins_are_those_published(imbalance: int, head: float) -> None:
    """CIFAR-10 by the LDAM repository's m_list, whose largest margin is 0.5."""
    counts = [int(5000 * imbalance ** (-k / 9)) for k in range(10)]
    margins = PUBLISHED.margins(torch.tensor(counts, dtype=torch.float64))
    assert margins.tolist() == pytest.approx(ldam_margins(counts, 0.5))
    assert float(margins[0]) == pytest.approx(head, abs=6e-4)
    assert float(margins[-1]) == 0.5


@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=8))
def test_the_rarer_class_never_has_the_smaller_margin(counts: list[int]) -> None:
    margins = PUBLISHED.margins(torch.tensor(sorted(counts), dtype=torch.float64))
    assert (margins.diff() <= 0).all()
    assert float(margins.max()) == 0.5


def test_an_empty_class_changes_no_margin_of_the_others() -> None:
    """A quarter power of 1 / 0 would give infinity as the largest, and every other class no margin."""
    margins = PUBLISHED.margins(torch.tensor([500.0, 16.0, 0.0]))
    assert margins[:2].equal(PUBLISHED.margins(torch.tensor([500.0, 16.0])))
    assert float(margins[2]) == 0.5
    cosines, labels = sample(classes=3)
    assert PUBLISHED(cosines, labels % 2, torch.tensor([500, 16, 0]), START).isfinite().all()


def test_only_the_label_has_a_margin() -> None:
    """On equal cosines, a class with margin m costs log(1 + (K - 1) e^(scale m)), whatever the others' margins."""
    losses = PUBLISHED(torch.zeros(5, 5, dtype=torch.float64), torch.arange(5), COUNTS, START)
    expected = [math.log(1 + 4 * math.exp(30 * m)) for m in ldam_margins(COUNTS.tolist(), 0.5)]
    assert losses.tolist() == pytest.approx(expected)
    assert (losses.diff() > 0).all()


@given(st.floats(0.1, 60))
def test_without_margin_it_is_cross_entropy_of_scaled_cosines(scale: float) -> None:
    cosines, labels = sample(1)
    losses = LDAM(max_margin=0, scale=scale)(cosines, labels, COUNTS, START)
    assert losses.equal(CrossEntropy()(scale * cosines, labels, COUNTS, START))
    expected = [
        cross_entropy([scale * z for z in row], y) for row, y in zip(cosines.tolist(), labels.tolist(), strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@given(st.integers(1, 1000), st.floats(0, 1))
def test_with_equal_counts_it_is_am_softmax(count: int, margin: float) -> None:
    cosines, labels = sample(2)
    one, other = LDAM(max_margin=margin, scale=30), AMSoftmax(margin=margin, scale=30)
    counts = torch.full((5,), count)
    torch.testing.assert_close(one(cosines, labels, counts, START), other(cosines, labels, counts, START))


def test_gradient_is_right() -> None:
    cosines, labels = sample(3)
    assert torch.autograd.gradcheck(lambda z: PUBLISHED(z, labels, COUNTS, START), cosines.requires_grad_())


def test_it_needs_cosines() -> None:
    assert LDAM.needs_classifier == "cosine"


@pytest.mark.parametrize(("key", "value"), [("max_margin", -0.1), ("scale", 0)])
def test_numbers_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        LDAM.model_validate({"max_margin": 0.5, "scale": 30, key: value})
