"""Mixed images and their two labels: the loss in plain loops under every loss, the draws, where nothing is mixed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracles
from longtail.learners.mixing import blend, draw_partners, draw_share, mixed_objective, share_while
from longtail.learners.mixup import Mixup
from longtail.losses.am_softmax import AMSoftmax
from longtail.losses.balanced_softmax import BalancedSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.focal import Focal
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.ldam import LDAM
from longtail.seeding import generator
from mixed import DRW, at, differ, make_objective, make_step
from tiny import COUNTS

Formula = Callable[[list[float], int], float]
PROGRESS = 0.6
LOSSES: list[tuple[Any, Formula]] = [
    (CrossEntropy(), oracles.cross_entropy),
    (Focal(gamma=2.0, modulating_factor="unweighted"), lambda z, y: oracles.focal(z, y, 2.0)),
    (LDAM(max_margin=0.5, scale=30.0), lambda z, y: oracles.ldam(z, y, COUNTS, 0.5, 30.0)),
    (AMSoftmax(margin=0.35, scale=30.0), lambda z, y: oracles.am_softmax(z, y, 0.35, 30.0)),
    (BalancedSoftmax(), lambda z, y: oracles.balanced_softmax(z, y, COUNTS)),
    (
        GradualBalanced(form="convex", s=1.0, c=2.0),
        lambda z, y: oracles.adjusted_cross_entropy(z, y, COUNTS, 2**PROGRESS - 1),
    ),
]
every_loss = pytest.mark.parametrize(("loss", "formula"), LOSSES, ids=[loss.name for loss, _ in LOSSES])


def sample(size: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw logits in [-1, 1], two labels and a share for each."""
    draws = generator(0, "mixed sample")
    logits = 2 * torch.rand(size, 5, dtype=torch.float64, generator=draws) - 1
    labels, others = torch.randint(5, (2, size), generator=draws)
    return logits, labels, others, torch.rand(size, dtype=torch.float64, generator=draws)


@every_loss
@pytest.mark.parametrize("reweighting", [None, DRW], ids=["unweighted", "drw"])
@pytest.mark.parametrize("own", [False, True], ids=["one_share", "own_shares"])
def test_each_label_counts_by_its_share(loss: Any, formula: Formula, reweighting: Any, own: bool) -> None:
    logits, labels, others, shares = sample()
    weights = oracles.class_balanced_weights(DRW.beta, COUNTS) if reweighting else [1.0] * 5
    total = norm = 0.0
    for i, z in enumerate(logits.tolist()):
        share = float(shares[i if own else 0])
        for label, part in ((int(labels[i]), share), (int(others[i]), 1 - share)):
            total += weights[label] * part * formula(z, label)
            norm += weights[label] * part
    objective = make_objective(loss, reweighting).double()
    ours = mixed_objective(objective, logits, labels, others, shares if own else shares[0], at(PROGRESS))
    assert float(ours) == pytest.approx(total / norm, rel=1e-6)  # the objective's class weights are float32


@every_loss
def test_its_gradient_is_the_slope_of_what_it_returns(loss: Any, formula: Formula) -> None:
    logits, labels, others, shares = sample(4)
    objective = make_objective(loss, DRW)

    def value(z: Tensor) -> Tensor:
        return mixed_objective(objective, z, labels, others, shares, at(PROGRESS))

    assert torch.autograd.gradcheck(value, logits.requires_grad_())


def test_weights_wait_for_their_start() -> None:
    logits, labels, others, shares = sample()
    weighted, unweighted = make_objective(reweighting=DRW), make_objective()
    early, late = (mixed_objective(weighted, logits, labels, others, shares, at(t)) for t in (0.4, 0.5))
    without = mixed_objective(unweighted, logits, labels, others, shares, at(0.5))
    assert early.equal(without)
    assert differ(late, without)


@given(st.sampled_from([0.0, 0.25, 1.0]))
def test_the_sides_are_exchangeable(share: float) -> None:
    logits, labels, others, _ = sample()
    objective, share_a = make_objective(reweighting=DRW), torch.tensor(share, dtype=torch.float64)
    one = mixed_objective(objective, logits, labels, others, share_a, at(PROGRESS))
    torch.testing.assert_close(one, mixed_objective(objective, logits, others, labels, 1 - share_a, at(PROGRESS)))


def test_a_whole_share_is_the_objective_of_that_label() -> None:
    logits, labels, others, shares = sample()
    objective = make_objective(reweighting=DRW)
    for share, expected in ((1.0, labels), (0.0, others)):
        ours = mixed_objective(objective, logits, labels, others, torch.full_like(shares, share), at(PROGRESS))
        torch.testing.assert_close(ours, objective(logits, expected, at(PROGRESS)), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_moments_of_a_beta(alpha: float) -> None:
    draws, number = generator(0, "shares"), 4000
    shares = torch.tensor([draw_share(alpha, draws) for _ in range(number)], dtype=torch.float64)
    assert shares.min() >= 0 and shares.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(shares.mean()) == pytest.approx(0.5, abs=5 * (variance / number) ** 0.5)
    assert float(shares.var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("alpha", [1e-8, 1e-3])
def test_a_tiny_alpha_takes_one_image_whole(alpha: float) -> None:
    draws = generator(0, "shares")
    shares = {round(draw_share(alpha, draws), 6) for _ in range(50)}
    assert shares == {0.0, 1.0}


def test_alpha_0_draws_nothing() -> None:
    draws = generator(0, "shares")
    assert draw_share(0.0, draws) == 1.0
    assert draws.get_state().equal(generator(0, "shares").get_state())


@given(st.integers(1, 40))
def test_partners_are_a_permutation(size: int) -> None:
    labels = torch.zeros(size, dtype=torch.int64)
    partners = draw_partners(labels, generator(size, "partners"))
    assert partners.sort().values.tolist() == list(range(size))
    assert partners.equal(draw_partners(labels, generator(size, "partners")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_share_is_1_where_inactive(dtype: torch.dtype) -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=dtype)
    for active, expected in ((True, 0.3), (False, 1.0)):
        share = share_while(torch.tensor(active), 0.3, images)
        assert share.equal(torch.tensor(expected, dtype=dtype))


def test_blends_are_taken_pixel_by_pixel() -> None:
    images, others = torch.rand(2, 3, 3, 4, 5, dtype=torch.float64, generator=generator(0, "blends"))
    mixed = blend(images, others, torch.tensor(0.3, dtype=torch.float64))
    pairs = zip(images.flatten().tolist(), others.flatten().tolist(), strict=True)
    expected = torch.tensor([0.3 * x + 0.7 * y for x, y in pairs], dtype=torch.float64).view_as(images)
    torch.testing.assert_close(mixed, expected)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("share", "kept"), [(1.0, 0), (0.0, 1)])
def test_a_whole_share_leaves_an_image_as_it_is(share: float, kept: int) -> None:
    pair = torch.rand(2, 3, 3, 4, 4, generator=generator(0, "blends"))
    assert blend(pair[0], pair[1], torch.tensor(share)).equal(pair[kept])


def test_the_steps_keep_no_parameters_of_their_own() -> None:
    step = make_step(Mixup(alpha=1.0, until=1.0))
    assert all(name.startswith("network.") for name in step.state_dict())
