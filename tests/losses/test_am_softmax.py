"""AM-softmax against its formula and its limit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from longtail.losses.am_softmax import AMSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.seeding import generator
from oracles import am_softmax

DEFAULT = AMSoftmax(margin=0.35, scale=30)
COUNTS = torch.tensor([500, 81, 20, 3, 1])
START = torch.tensor(0.0)


def sample(seed: int = 0, samples: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Draw cosines and labels."""
    draws = generator(seed, "sample")
    cosines = 2 * torch.rand(samples, classes, dtype=torch.float64, generator=draws) - 1
    return cosines, torch.randint(classes, (samples,), generator=draws)


@given(st.integers(2, 9), st.floats(0, 1), st.floats(0.1, 60), st.integers(0, 99))
def test_is_the_formula(classes: int, margin: float, scale: float, seed: int) -> None:
    cosines, labels = sample(seed, classes=classes)
    losses = AMSoftmax(margin=margin, scale=scale)(cosines, labels, torch.ones(classes), START)
    pairs = zip(cosines.tolist(), labels.tolist(), strict=True)
    expected = [am_softmax(z, y, margin, scale) for z, y in pairs]
    torch.testing.assert_close(losses, cosines.new_tensor(expected), rtol=1e-11, atol=1e-11)


@given(st.floats(0.1, 60))
def test_without_margin_it_is_cross_entropy_of_scaled_cosines(scale: float) -> None:
    cosines, labels = sample(1)
    losses = AMSoftmax(margin=0, scale=scale)(cosines, labels, COUNTS, START)
    assert losses.equal(CrossEntropy()(scale * cosines, labels, COUNTS, START))


def test_only_the_label_has_a_margin_and_all_labels_the_same() -> None:
    losses = DEFAULT(torch.zeros(5, 5, dtype=torch.float64), torch.arange(5), COUNTS, START)
    assert losses.tolist() == pytest.approx([math.log(1 + 4 * math.exp(30 * 0.35))] * 5)


def test_a_cosine_that_leads_by_the_margin_is_undecided() -> None:
    """The boundary of a class lies `margin` beyond the middle."""
    loss = DEFAULT(torch.tensor([[0.6, 0.25]], dtype=torch.float64), torch.tensor([0]), COUNTS[:2], START)
    assert float(loss) == pytest.approx(math.log(2))


def test_counts_do_not_matter() -> None:
    cosines, labels = sample(2)
    once = DEFAULT(cosines, labels, COUNTS, START)
    assert DEFAULT(cosines, labels, torch.tensor([1, 0, 7, 7, 9]), START).equal(once)


def test_gradient_is_right() -> None:
    cosines, labels = sample(3)
    assert torch.autograd.gradcheck(lambda z: DEFAULT(z, labels, COUNTS, START), cosines.requires_grad_())


def test_it_needs_cosines() -> None:
    assert AMSoftmax.needs_classifier == "cosine"


@pytest.mark.parametrize(("key", "value"), [("margin", -0.1), ("scale", 0)])
def test_numbers_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        AMSoftmax.model_validate({"margin": 0.35, "scale": 30, key: value})
