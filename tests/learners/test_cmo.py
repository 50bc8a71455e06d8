"""CMO against plain loops, its boxes and epochs, and where it is plain learning."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import tiny
from csa_oracle import batches, cross_entropy, mean
from longtail.learners import cmo
from longtail.learners.cmo import CMO, Box, background_share, draw_box, inside, paste
from longtail.loading.batches import Batch
from longtail.losses.ldam import LDAM
from longtail.models.network import Network
from longtail.seeding import generator
from mixed import DRW, agree, at, copy_of, differ, make_objective, make_step, plain_step

CODE: dict[str, Any] = {"probability": 0.5, "beta": 1.0, "start": 0.02, "stop": 0.985}
ALWAYS: dict[str, Any] = {"probability": 1.0, "start": 0.0, "stop": 1.0}


def row(**changes: Any) -> CMO:
    return CMO.model_validate(CODE | changes)


def run(step: Any, progress: float = 0.5, size: int = 10, index: int = 0) -> Tensor:
    loss: Tensor = step(*batches(index, size), progress=at(progress), generator=generator(index, "draws"))
    return loss


def run_plain(progress: float = 0.5, objective: Any = None, side: int = 0) -> Tensor:
    batch = batches(0, 10)[side]
    loss: Tensor = plain_step(objective)(batch, progress=at(progress), generator=generator(0, "draws"))
    return loss


def oracle_box(height: int, width: int, share: float, draws: torch.Generator) -> Box:
    """CutMix: the cut's sides are sqrt(1 - l) of the image's, its centre is uniform, and it is clipped."""
    cut_h, cut_w = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
    row_, column = int(torch.randint(height, (), generator=draws)), int(torch.randint(width, (), generator=draws))
    top, bottom = min(max(row_ - cut_h // 2, 0), height), min(max(row_ + cut_h // 2, 0), height)
    left, right = min(max(column - cut_w // 2, 0), width), min(max(column + cut_w // 2, 0), width)
    return top, bottom, left, right


def oracle(network: Network, uniform: Batch, balanced: Batch, spec: CMO, draws: torch.Generator) -> tuple[Tensor, bool]:
    """The released code's step, within its epochs: the loss, and whether the batch was mixed."""
    images, labels = uniform.images.clone(), uniform.labels.tolist()
    if float(torch.rand((), generator=draws, dtype=torch.float64)) >= spec.probability:
        return mean([cross_entropy(z, y) for z, y in zip(network(images), labels, strict=True)]), False
    seed = int(torch.randint(2**63 - 1, (), generator=draws))
    share = float(np.random.default_rng(seed).beta(spec.beta, spec.beta))
    height, width = images.shape[-2:]
    top, bottom, left, right = oracle_box(height, width, share, draws)
    cut = 0
    for i in range(top, bottom):
        for j in range(left, right):
            images[:, :, i, j] = balanced.images[:, :, i, j]
            cut += 1
    share = 1 - cut / (height * width)
    pairs = zip(network(images), labels, balanced.labels.tolist(), strict=True)
    losses = [share * cross_entropy(z, a) + (1 - share) * cross_entropy(z, b) for z, a, b in pairs]
    return mean(losses), True


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("size", [10, 7, 1])
def test_is_cmo(beta: float, size: int) -> None:
    mixed = []
    for index in range(6):
        step = make_step(row(beta=beta))
        network = copy_of(step)
        theirs, was_mixed = oracle(network, *batches(index, size), step.spec, generator(index, "draws"))
        mixed.append(was_mixed)
        agree(step, run(step, 0.5, size, index), network, theirs)
    assert set(mixed) == {False, True}


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_boxes_lie_in_the_image_and_the_share_is_what_they_leave(h: int, w: int, share: float, seed: int) -> None:
    box = draw_box(h, w, share, generator(seed, "box"))
    assert box == oracle_box(h, w, share, generator(seed, "box"))
    top, bottom, left, right = box
    assert 0 <= top <= bottom <= h and 0 <= left <= right <= w
    mask = inside(box, torch.zeros(2, 1, h, w))
    assert background_share(box, h, w) == pytest.approx(1 - int(mask.sum()) / (h * w), abs=1e-12)


def test_boxes_touch_every_place() -> None:
    draws, hits = generator(0, "boxes"), torch.zeros(6, 9)
    for _ in range(300):
        hits += inside(draw_box(6, 9, 0.6, draws), torch.zeros(1, 1, 6, 9))
    assert hits.min() > 0


def test_patches_keep_their_place() -> None:
    images, patches = torch.rand(2, 3, 3, 6, 5, generator=generator(0, "paste"))
    pasted = paste(images, patches, inside((1, 4, 2, 5), images))
    for i in range(6):
        for j in range(5):
            source = patches if 1 <= i < 4 and 2 <= j < 5 else images
            assert pasted[:, :, i, j].equal(source[:, :, i, j])
    assert pasted.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("epoch", "mixes"), [(0, False), (3, False), (4, True), (196, True), (197, False)])
def test_epochs_4_to_196_of_200_mix(epoch: int, mixes: bool) -> None:
    step = make_step(row(probability=1.0))
    assert differ(run(step, epoch / 200), run_plain(epoch / 200)) == mixes


def test_probability_0_is_plain_learning_to_the_bit() -> None:
    assert run(make_step(row(probability=0.0))).equal(run_plain())


@pytest.mark.parametrize("objective", [make_objective(), make_objective(LDAM(max_margin=0.5, scale=30.0), DRW)])
def test_between_equal_start_and_stop_nothing_is_mixed(objective: Any) -> None:
    step, plain = make_step(row(probability=1.0, start=0.5, stop=0.5), objective), plain_step(objective)
    theirs = plain(batches(0, 10)[0], progress=at(0.5), generator=generator(0, "draws"))
    agree(step, run(step), plain.network, theirs)  # type: ignore[arg-type]


@pytest.mark.parametrize(("box", "side"), [((0, 0, 3, 7), 0), ((0, 8, 0, 8), 1)], ids=["empty", "whole"])
def test_an_empty_or_whole_box_is_one_of_the_batches(box: Box, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmo, "draw_box", lambda *_: box)
    objective = make_objective(reweighting=DRW)
    ours = run(make_step(row(**ALWAYS), objective))
    torch.testing.assert_close(ours, run_plain(0.5, objective, side), rtol=1e-7, atol=1e-9)


def test_the_same_label_on_both_sides_needs_no_share() -> None:
    step = make_step(row(**ALWAYS))
    network = copy_of(step)
    uniform, balanced = (Batch(batch.images, torch.full((10,), 2)) for batch in batches(0, 10))
    ours = step(uniform, balanced, progress=at(0.5), generator=generator(0, "draws"))
    theirs, mixed = oracle(network, uniform, balanced, step.spec, generator(0, "draws"))
    assert mixed
    agree(step, ours, network, theirs)


def test_only_the_box_of_a_patch_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmo, "draw_box", lambda *_: (2, 6, 1, 4))
    step, (uniform, balanced) = make_step(row(**ALWAYS)), batches(0, 10)
    for batch in (uniform, balanced):
        batch.images.requires_grad_()
    loss = step(uniform, balanced, progress=at(0.5), generator=generator(0, "draws"))
    box = torch.zeros(8, 8, dtype=torch.bool)
    box[2:6, 1:4] = True
    gradients = torch.autograd.grad(loss, (uniform.images, balanced.images))
    assert [gradient.any(0).any(0).tolist() for gradient in gradients] == [(~box).tolist(), box.tolist()]


def test_under_autocast_gradients_reach_everything() -> None:
    network = tiny.make_network().train()
    step = row(**ALWAYS).step_for(network, make_objective())
    pair = (Batch(images.float(), labels) for images, labels in batches(0, 10))
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(*pair, progress=at(0.5), generator=generator(0, "draws"))
    assert loss.dtype == torch.float32
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(network.parameters())))


def test_says_what_it_needs_of_its_row() -> None:
    assert CMO.batches == 2
    assert not CMO.needs_start


@pytest.mark.parametrize(
    "wrong", [{"probability": 1.5}, {"beta": 0.0}, {"start": -0.1}, {"stop": 1.1}, {"start": 0.99}], ids=repr
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        row(**wrong)


@pytest.mark.parametrize("key", CODE)
def test_its_row_names_every_key(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        CMO.model_validate({k: v for k, v in CODE.items() if k != key})
