"""GraLoss against GLAG eq. 3 and 4, and both of its ends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.seeding import generator
from oracles import adjusted_cross_entropy, gradual_alpha

CONVEX = GradualBalanced(form="convex", s=1, c=2)
LINEAR = GradualBalanced(form="linear", s=1, c=1)
CONCAVE = GradualBalanced(form="concave", s=-2, c=0.5)
FORMS = [
    CONVEX,
    LINEAR,
    CONCAVE,
    GradualBalanced(form="convex", s=1 / 3, c=4),
    GradualBalanced(form="linear", s=0.5, c=1),
]
COUNTS = torch.tensor([500, 81, 20, 3, 1])


def sample(seed: int, samples: int = 6, classes: int = 5, size: float = 3.0) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "sample")
    logits = size * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    return logits, torch.randint(classes, (samples,), generator=draws)


def at(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("loss", FORMS, ids=repr)
@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=8), st.integers(1, 200), st.data(), st.floats(0.01, 50))
def test_is_the_formula(
    loss: GradualBalanced, counts: list[int], epochs: int, data: st.DataObject, size: float
) -> None:
    compare(loss, counts, data.draw(st.integers(0, epochs - 1)), epochs, size)


def compare(loss: GradualBalanced, counts: list[int], epoch: int, epochs: int, size: float = 3.0) -> None:
    """Compare GLAG eq. 3 and 4."""
    logits, labels = sample(epoch, classes=len(counts), size=size)
    losses = loss(logits, labels, torch.tensor(counts), at(epoch / epochs))
    a = gradual_alpha(loss.s, loss.c, epoch, epochs)
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = [adjusted_cross_entropy(z, y, counts, a) for z, y in pairs]
    torch.testing.assert_close(losses, at(0).new_tensor(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("loss", FORMS, ids=repr)
def test_without_progress_it_is_cross_entropy(loss: GradualBalanced) -> None:
    logits, labels = sample(0)
    expected = CrossEntropy()(logits, labels, COUNTS, at(0))
    torch.testing.assert_close(loss(logits, labels, COUNTS, at(0)), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("form", "c"), [("convex", 2.0), ("linear", 1.0), ("concave", 0.5)])
def test_without_scale_it_is_cross_entropy(form: str, c: float) -> None:
    logits, labels = sample(1)
    loss = GradualBalanced.model_validate({"form": form, "s": 0, "c": c})
    assert loss(logits, labels, COUNTS, at(0.7)).equal(CrossEntropy()(logits, labels, COUNTS, at(0.7)))


@pytest.mark.parametrize("loss", [CONVEX, LINEAR, CONCAVE], ids=repr)
def test_at_its_end_it_is_the_balanced_softmax(loss: GradualBalanced) -> None:
    """Ren et al. eq. 4: -log(n_y e^z_y / sum_j n_j e^z_j)."""
    logits, labels = sample(2)
    losses = loss(logits, labels, COUNTS, at(1.0))
    for z, y, value in zip(logits.tolist(), labels.tolist(), losses.tolist(), strict=True):
        terms = [n * math.exp(e) for n, e in zip(COUNTS.tolist(), z, strict=True)]
        assert value == pytest.approx(-math.log(terms[y] / sum(terms)), rel=1e-12)


@pytest.mark.parametrize("loss", FORMS, ids=repr)
@given(st.integers(1, 1000), st.floats(0, 0.999))
def test_with_equal_counts_it_is_cross_entropy(loss: GradualBalanced, count: int, t: float) -> None:
    logits, labels = sample(3)
    counts = torch.full((5,), count)
    torch.testing.assert_close(loss(logits, labels, counts, at(t)), CrossEntropy()(logits, labels, counts, at(t)))


@pytest.mark.parametrize(
    ("loss", "quarters"),
    [
        (CONVEX, (0, 0.189, 0.414, 0.682, 1)),
        (LINEAR, (0, 0.25, 0.5, 0.75, 1)),
        (CONCAVE, (0, 0.318, 0.586, 0.811, 1)),
        (GradualBalanced(form="convex", s=1 / 3, c=4), (0, 0.138, 0.333, 0.609, 1)),
        (GradualBalanced(form="convex", s=1 / 5, c=6), (0, 0.113, 0.290, 0.567, 1)),
        (GradualBalanced(form="convex", s=1 / 7, c=8), (0, 0.097, 0.261, 0.537, 1)),
        (GradualBalanced(form="convex", s=0.5, c=2), (0, 0.095, 0.207, 0.341, 0.5)),
    ],
    ids=repr,
)
def test_grows_as_published(loss: GradualBalanced, quarters: tuple[float, ...]) -> None:
    for i, expected in enumerate(quarters):
        assert float(loss.alpha(at(i / 4))) == pytest.approx(expected, abs=5.1e-4)


@pytest.mark.parametrize(("loss", "bend"), [(CONVEX, 1), (LINEAR, 0), (CONCAVE, -1)], ids=repr)
def test_form_says_how_it_bends(loss: GradualBalanced, bend: int) -> None:
    alphas = loss.alpha(torch.linspace(0, 1, 50, dtype=torch.float64))
    steps = alphas.diff()
    assert (steps > 0).all()
    turns = steps.diff()
    assert (turns.abs() < 1e-12).all() if bend == 0 else (bend * turns > 0).all()


@given(st.floats(0, 1))
def test_linear_is_the_limit_of_both_others(t: float) -> None:
    for base in (1e-4, 1e-7):
        convex = GradualBalanced(form="convex", s=1 / base, c=1 + base)
        concave = GradualBalanced(form="concave", s=-1 / base, c=1 - base)
        for loss in (convex, concave):
            assert float(loss.alpha(at(t))) == pytest.approx(float(LINEAR.alpha(at(t))), abs=base)


def test_the_margin_of_the_tail_grows() -> None:
    """What the loss is for: equal logits cost a rare class more, and ever more."""
    logits, labels = torch.zeros(5, 5), torch.arange(5)
    early, late = (CONVEX(logits, labels, COUNTS, at(t)) for t in (0.2, 0.9))
    assert (early.diff() > 0).all()
    assert late[-1] > early[-1] > math.log(5) > early[0] > late[0]


@pytest.mark.parametrize("loss", [CONVEX, LINEAR, CONCAVE], ids=repr)
def test_gradient_is_right(loss: GradualBalanced) -> None:
    logits, labels = sample(4)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, COUNTS, at(0.6)), logits.requires_grad_())


@pytest.mark.parametrize(
    ("form", "s", "c", "rule"),
    [
        ("linear", 1, 2, "form linear takes c: 1, but c is 2 and s is 1"),
        ("convex", 1, 1, "form convex takes c above 1 and s above 0, but c is 1 and s is 1"),
        ("convex", 1, 0.5, "form convex takes c above 1"),
        ("convex", -1, 2, "form convex takes c above 1 and s above 0, but c is 2 and s is -1"),
        ("concave", 1, 0.5, "form concave takes c below 1 and s below 0, but c is 0.5 and s is 1"),
        ("concave", -1, 2, "form concave takes c below 1"),
        ("convex", 1, 0, "greater than 0"),
        ("bent", 1, 2, "'linear', 'concave' or 'convex'"),
    ],
)
def test_a_form_that_its_numbers_contradict_is_refused(form: str, s: float, c: float, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        GradualBalanced.model_validate({"form": form, "s": s, "c": c})
