"""Remix against plain loops, where it is mixup or plain learning, and whom its labels favour."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from csa_oracle import batches, cross_entropy, mean
from longtail.learners.mixup import Mixup
from longtail.learners.remix import Remix, label_shares
from longtail.loading.batches import Batch
from longtail.losses.ldam import LDAM
from longtail.models.network import Network
from longtail.seeding import generator
from mixed import DRW, agree, at, copy_of, differ, make_objective, make_step, plain_step
from tiny import COUNTS

PAPER: dict[str, Any] = {"alpha": 1.0, "kappa": 3.0, "tau": 0.5}
MIXUP = Mixup(alpha=1.0, until=1.0)


def row(**changes: Any) -> Remix:
    return Remix.model_validate(PAPER | changes)


def run(step: Any, progress: float = 0.5, size: int = 10, index: int = 0) -> Tensor:
    loss: Tensor = step(batches(index, size)[0], progress=at(progress), generator=generator(index, "draws"))
    return loss


def label_share(share: float, own: int, other: int, kappa: int, tau: float) -> float:
    """Chou et al.: the share of the image's own label; ratios are compared as whole numbers."""
    if own >= kappa * other and share < tau:
        return 0.0
    if own * kappa <= other and 1 - share < tau:
        return 1.0
    return share


def oracle(network: Network, batch: Batch, draws: torch.Generator) -> tuple[Tensor, list[float]]:
    seed = int(torch.randint(2**63 - 1, (), generator=draws))
    share = float(np.random.default_rng(seed).beta(1.0, 1.0))
    order = torch.randperm(len(batch.images), generator=draws).tolist()
    mixed = [share * batch.images[i] + (1 - share) * batch.images[j] for i, j in enumerate(order)]
    losses, shares = [], []
    for i, z in enumerate(network(torch.stack(mixed))):
        a, b = int(batch.labels[i]), int(batch.labels[order[i]])
        shares.append(label_share(share, COUNTS[a], COUNTS[b], 3, 0.5))
        losses.append(shares[-1] * cross_entropy(z, a) + (1 - shares[-1]) * cross_entropy(z, b))
    return mean(losses), shares


@pytest.mark.parametrize("size", [16, 7, 1])
def test_is_remix(size: int) -> None:
    kinds = set()
    for index in range(6):
        step = make_step(row())
        network = copy_of(step)
        theirs, shares = oracle(network, batches(index, size)[0], generator(index, "draws"))
        kinds |= {min(1.0, max(0.0, round(share))) if share in (0.0, 1.0) else 0.5 for share in shares}
        agree(step, run(step, 0.5, size, index), network, theirs)
    assert kinds == ({0.0, 0.5, 1.0} if size > 1 else {0.5})


counts = st.lists(st.integers(1, 60), min_size=2, max_size=2)


@given(st.lists(counts, min_size=1, max_size=20), st.floats(0, 1), st.integers(1, 9), st.floats(0, 1))
def test_shares_follow_the_rule(pairs: list[list[int]], share: float, kappa: int, tau: float) -> None:
    own, other = torch.tensor(pairs).T
    ours = label_shares(share, own, other, float(kappa), tau)
    assert ours.tolist() == [label_share(share, a, b, kappa, tau) for a, b in pairs]


@pytest.mark.parametrize(
    ("share", "own", "other", "expected"),
    [
        (0.4, 30, 10, 0.0),  # exactly kappa times as many, and faint
        (0.4, 29, 10, 0.4),
        (0.5, 30, 10, 0.5),  # faint is below tau
        (0.6, 10, 30, 1.0),
        (0.6, 11, 30, 0.6),
        (0.5, 10, 30, 0.5),
        (0.4, 10, 30, 0.4),  # the rare one itself is the faint one
        (0.6, 30, 10, 0.6),
        (0.6, 49, 147, 1.0),  # 49 / 147 <= 1 / 3 also where quotients are rounded
    ],
)
def test_the_whole_label_goes_to_the_much_rarer_class(share: float, own: int, other: int, expected: float) -> None:
    assert label_shares(share, torch.tensor([own]), torch.tensor([other]), 3.0, 0.5).tolist() == [expected]


@given(counts, st.floats(0, 1), st.integers(2, 9), st.floats(0, 0.5))
def test_it_matters_not_which_image_comes_first(pair: list[int], share: float, kappa: int, tau: float) -> None:
    a, b = torch.tensor([pair[0]]), torch.tensor([pair[1]])
    one, other = label_shares(share, a, b, kappa, tau), label_shares(1 - share, b, a, kappa, tau)
    if 1 - (1 - share) == share:  # else the share itself changes by rounding
        assert (one + other).item() == pytest.approx(1)


@pytest.mark.parametrize("changes", [{"kappa": 21.0}, {"tau": 0.0}], ids=repr)
@pytest.mark.parametrize("index", range(3))
def test_without_a_much_rarer_class_it_is_mixup(changes: dict[str, Any], index: int) -> None:
    objective = make_objective(LDAM(max_margin=0.5, scale=30.0), DRW)
    remix, mixup = make_step(row(**changes), objective), make_step(MIXUP, objective)
    assert run(remix, 0.6, index=index).equal(run(mixup, 0.6, index=index))


def test_with_equal_counts_it_is_mixup() -> None:
    objective = make_objective(counts=(8,) * 5)
    assert run(make_step(row(), objective)).equal(run(make_step(MIXUP, objective)))


def test_alpha_0_is_plain_learning() -> None:
    step, plain = make_step(row(alpha=0.0)), plain_step()
    agree(step, run(step), plain.network, run(plain))  # type: ignore[arg-type]


def test_shares_are_those_of_each_image_and_not_their_mean() -> None:
    step = make_step(row())
    network = copy_of(step)
    batch = batches(0, 16)[0]
    theirs, shares = oracle(network, batch, generator(0, "draws"))
    assert len(set(shares)) > 1
    draws = generator(0, "draws")
    share = float(np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=draws))).beta(1.0, 1.0))
    order = torch.randperm(16, generator=draws)
    logits = network(share * batch.images + (1 - share) * batch.images[order])
    average = sum(shares) / 16
    own, other = (
        mean([cross_entropy(z, int(y)) for z, y in zip(logits, labels, strict=True)])
        for labels in (batch.labels, batch.labels[order])
    )
    ours = run(step, size=16)
    assert differ(ours, average * own + (1 - average) * other)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"kappa": 0.9}, {"tau": 1.1}, {"tau": -0.1}, {"until": 1.0}], ids=repr
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        row(**wrong)


@pytest.mark.parametrize("key", PAPER)
def test_its_row_names_every_key(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Remix.model_validate({k: v for k, v in PAPER.items() if k != key})
