"""Mixup against plain loops, where it is plain learning, and who learns from it."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import tiny
from csa_oracle import batches, cross_entropy, mean
from longtail.learners.mixup import Mixup
from longtail.loading.batches import Batch
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.ldam import LDAM
from longtail.models.network import Network
from longtail.seeding import generator
from mixed import DRW, agree, at, copy_of, differ, make_objective, make_step, plain_step

ALWAYS = Mixup(alpha=1.0, until=1.0)


def run(step: Any, progress: float = 0.5, size: int = 10, index: int = 0) -> Tensor:
    loss: Tensor = step(batches(index, size)[0], progress=at(progress), generator=generator(index, "draws"))
    return loss


def oracle(network: Network, batch: Batch, alpha: float, draws: torch.Generator) -> Tensor:
    """Zhang et al.: one l ~ Beta(alpha, alpha) for the batch, a permuted partner for each image."""
    seed = int(torch.randint(2**63 - 1, (), generator=draws))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(len(batch.images), generator=draws).tolist()
    mixed = [share * batch.images[i] + (1 - share) * batch.images[j] for i, j in enumerate(order)]
    losses = []
    for i, z in enumerate(network(torch.stack(mixed))):
        own, partners = int(batch.labels[i]), int(batch.labels[order[i]])
        losses.append(share * cross_entropy(z, own) + (1 - share) * cross_entropy(z, partners))
    return mean(losses)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("size", [10, 7, 1])
@pytest.mark.parametrize("index", range(3))
def test_is_mixup(alpha: float, size: int, index: int) -> None:
    step = make_step(Mixup(alpha=alpha, until=1.0))
    network = copy_of(step)
    theirs = oracle(network, batches(index, size)[0], alpha, generator(index, "draws"))
    agree(step, run(step, 0.99, size, index), network, theirs)


@pytest.mark.parametrize("spec", [Mixup(alpha=0.0, until=1.0), Mixup(alpha=1.0, until=0.0)], ids=["alpha", "until"])
@pytest.mark.parametrize(
    "objective",
    [make_objective(), make_objective(LDAM(max_margin=0.5, scale=30.0), DRW), make_objective(reweighting=DRW)],
    ids=["cross_entropy", "ldam_drw", "drw"],
)
def test_without_mixing_it_is_plain_learning(spec: Mixup, objective: Any) -> None:
    step, plain = make_step(spec, objective), plain_step(objective)
    agree(step, run(step, 0.7), plain.network, run(plain, 0.7))  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "mixes"), [(0, True), (196, True), (197, False), (199, False)])
def test_it_can_end_with_epochs_without_mixing(epoch: int, mixes: bool) -> None:
    spec = Mixup(alpha=1.0, until=0.985)
    assert differ(run(make_step(spec), epoch / 200), run(plain_step(), epoch / 200)) == mixes


def test_a_batch_of_one_image_is_plain() -> None:
    torch.testing.assert_close(run(make_step(ALWAYS), size=1), run(plain_step(), size=1), rtol=1e-12, atol=1e-12)


def test_both_labels_meet_the_objective() -> None:
    # A loss that knows counts and progress, class weights and one label: l then matters through the image alone.
    objective = make_objective(GradualBalanced(form="convex", s=1.0, c=2.0), DRW)
    step = make_step(ALWAYS, objective)
    images, _ = batches(0, 10)[0]
    labels = torch.full((10,), 4)
    seed = int(torch.randint(2**63 - 1, (), generator=(draws := generator(0, "draws"))))
    share = float(np.random.default_rng(seed).beta(1.0, 1.0))
    order = torch.randperm(10, generator=draws)
    expected = objective(copy_of(step)(share * images + (1 - share) * images[order]), labels, at(0.6))
    ours = step(Batch(images, labels), progress=at(0.6), generator=generator(0, "draws"))
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_draws_are_the_same_in_every_epoch() -> None:
    states = []
    for progress in (0.1, 0.9):
        draws = generator(0, "draws")
        make_step(Mixup(alpha=1.0, until=0.5))(batches(0, 10)[0], progress=at(progress), generator=draws)
        states.append(draws.get_state())
    assert states[0].equal(states[1])


def test_under_autocast_gradients_reach_everything() -> None:
    network = tiny.make_network().train()
    step = ALWAYS.step_for(network, make_objective())
    images, labels = batches(0, 10)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(Batch(images.float(), labels), progress=at(0.5), generator=generator(0, "draws"))
    assert loss.dtype == torch.float32
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize(
    "wrong", [{"alpha": -0.1}, {"until": 1.1}, {"until": -0.1}, {"alpha": True}, {"tau": 0.5}], ids=repr
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Mixup.model_validate({"alpha": 1.0, "until": 1.0} | wrong)


@pytest.mark.parametrize("key", ["alpha", "until"])
def test_its_row_names_every_key(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Mixup.model_validate({k: 1.0 for k in ("alpha", "until") if k != key})
