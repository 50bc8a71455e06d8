"""Label-aware smoothing: the formulas of MiSLAS in plain loops, and where they become simpler losses."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
from longtail.balancers.mislas import LabelAwareSmoothing, smoothed_cross_entropy

COUNTS = [500, 120, 31, 7, 5]
FORMS: list[Any] = ["concave", "linear", "convex", {"name": "exponential", "power": 2.5}]


def _spec(form: Any = "concave", head: float = 0.4, tail: float = 0.1) -> LabelAwareSmoothing:
    return LabelAwareSmoothing.model_validate({"eps_head": head, "eps_tail": tail, "form": form})


def _eps(form: Any, n: int, largest: int, smallest: int, head: float, tail: float) -> float:
    """The smoothing functions as MiSLAS writes them; the convex one is a sine that ends at three half turns."""
    share = (n - smallest) / (largest - smallest)
    if form == "concave":
        return tail + (head - tail) * math.sin(math.pi * (n - smallest) / (2 * (largest - smallest)))
    if form == "linear":
        return tail + (head - tail) * share
    if form == "convex":
        turn = 3 * math.pi / 2 + math.pi * (n - smallest) / (2 * (largest - smallest))
        return head + (head - tail) * math.sin(turn)
    return float(tail + (head - tail) * share ** form["power"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("head", "tail"), [(0.4, 0.1), (0.3, 0.0)])
def test_smoothing_follows_the_counts(form: Any, head: float, tail: float) -> None:
    eps = _spec(form, head, tail).eps(torch.tensor(COUNTS))
    assert eps.tolist() == pytest.approx([_eps(form, n, 500, 5, head, tail) for n in COUNTS], abs=1e-12)
    assert eps[0].item() == pytest.approx(head) and eps[-1].item() == pytest.approx(tail)
    assert (eps.diff() < 0).all()


def test_concave_lies_above_linear_and_convex_below() -> None:
    concave, linear, convex = (_spec(form).eps(torch.tensor(COUNTS))[1:4] for form in ("concave", "linear", "convex"))
    assert (concave > linear).all() and (linear > convex).all()


@pytest.mark.parametrize("form", FORMS)
def test_equal_counts_are_smoothed_as_the_tail(form: Any) -> None:
    assert _spec(form).eps(torch.tensor([30, 30, 30])).tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("form", FORMS)
def test_empty_classes_do_not_shift_the_others(form: Any) -> None:
    full, gaps = (_spec(form).eps(torch.tensor(counts)) for counts in (COUNTS, [0, *COUNTS, 0]))
    assert torch.equal(gaps[1:-1], full)
    assert gaps[0].item() == pytest.approx(0.1)


def _loss(logits: list[float], label: int, eps: list[float]) -> float:
    surprises = [oracles.cross_entropy(logits, k) for k in range(len(logits))]
    return (1 - eps[label]) * surprises[label] + eps[label] * sum(surprises) / len(surprises)


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 99))
def test_loss_of_each_sample(rows: int, classes: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn((rows, classes), generator=draws, dtype=torch.float64)
    labels = torch.randint(classes, (rows,), generator=draws)
    eps = torch.rand(classes, generator=draws, dtype=torch.float64)
    expected = [_loss(z, y, eps.tolist()) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert smoothed_cross_entropy(logits, labels, eps).tolist() == pytest.approx(expected, abs=1e-9)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: smoothed_cross_entropy(z, labels, eps), (logits,))


def test_one_smoothing_for_all_is_label_smoothing_and_none_is_cross_entropy() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((8, 5), generator=draws).double(), torch.randint(5, (8,), generator=draws)
    for smoothing in (0.0, 0.2):
        ours = smoothed_cross_entropy(logits, labels, torch.full((5,), smoothing, dtype=torch.float64))
        theirs = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_half_precision_logits_are_widened() -> None:
    logits = torch.tensor([[30.0, -30.0, 0.0]]).bfloat16()
    loss = smoothed_cross_entropy(logits, torch.tensor([1]), torch.tensor([0.1, 0.1, 0.1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_loss([30.0, -30.0, 0.0], 1, [0.1] * 3), rel=1e-6)


@pytest.mark.parametrize("bad", [{"form": "exponential"}, {"form": "sine"}, {"eps_head": 1.1}, {"eps_tail": -0.1}])
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"form|eps"):
        LabelAwareSmoothing.model_validate({"eps_head": 0.4, "eps_tail": 0.1, "form": "linear"} | bad)
