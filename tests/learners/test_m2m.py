"""M2m against plain loops over images, its limits, what the translation leaves alone, and its pitfalls."""

import math
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import tiny
from csa_oracle import batches, cross_entropy, mean
from longtail.learners.m2m import M2m, M2mStep, draw_noise, draw_seeds, unit
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches
from longtail.losses.ldam import LDAM
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.loop import Run, fit
from longtail.training.objective import Objective
from longtail.training.plans import CosineSchedule, Optimisation
from mixed import DRW, agree, at, differ, make_objective, plain_step

CODE: dict[str, Any] = {
    "start": 0.8,
    "beta": 0.999,
    "lam": 0.5,
    "gamma": 0.9,
    "noise": 0.5,
    "steps": 10,
    "step_size": 0.1,
}
# For a split of 43 images and a g that is nearly untrained.
EASY: dict[str, Any] = {"start": 0.5, "beta": 0.9, "gamma": 0.3}
LATE = 0.9


def row(**changes: Any) -> M2m:
    return M2m.model_validate(CODE | EASY | changes)


def sharp_network(seed: int, scale: float = 2.0) -> Network:
    network = tiny.make_network(seed)
    with torch.no_grad():
        network.classifier.weight.mul_(scale)
    return network


def pair(index: int, size: int) -> tuple[Batch, Batch]:
    """Draw a uniform and a balanced batch in the memory format that `fit` gives them."""
    uniform, balanced = batches(index, size)
    last = torch.channels_last
    return tuple(Batch(x.contiguous(memory_format=last), y) for x, y in (uniform, balanced))  # type: ignore[return-value]


def make_step(spec: M2m, objective: Objective | None = None) -> M2mStep:
    """Return a step whose f is drawn afresh after g was taken, in float64."""
    network = sharp_network(1, 8.0)
    step = spec.step_for(network, objective or make_objective())
    network.load_state_dict(sharp_network(0).state_dict())
    assert isinstance(step, M2mStep)
    return step.double().train()


def run(step: Any, progress: float = LATE, size: int = 10, index: int = 0) -> Tensor:
    loss: Tensor = step(*pair(index, size), progress=at(progress), generator=generator(index, "draws"))
    return loss


def run_plain(side: int, progress: float = LATE, objective: Objective | None = None, size: int = 10) -> Tensor:
    batch = pair(0, size)[side]
    loss: Tensor = plain_step(objective)(batch, progress=at(progress), generator=generator(0, "draws"))
    return loss


class Oracle:
    """The released code's step, image by image; its noise per image, as the paper has it."""

    def __init__(self, step: M2mStep, spec: M2m) -> None:
        self.f, self.g, self.spec = deepcopy(step.network), deepcopy(step.guide), spec
        self.counts = [int(n) for n in step.objective.class_counts]
        self.seen: Counter[str] = Counter()

    def loss(self, uniform: Batch, balanced: Batch, progress: float, draws: torch.Generator) -> Tensor:
        batch = uniform
        if progress >= self.spec.start:
            batch = Batch(torch.stack(self._fill(balanced, draws)), balanced.labels)
        logits = self.f.train()(batch.images)
        return mean([cross_entropy(z, int(y)) for z, y in zip(logits, batch.labels, strict=True)])

    def _fill(self, batch: Batch, draws: torch.Generator) -> list[Tensor]:
        images, labels = list(batch.images), batch.labels.tolist()
        size = len(images)
        wants = torch.rand(size, generator=draws, dtype=torch.float64).tolist()
        races = torch.rand(size, size, generator=draws, dtype=torch.float64).tolist()
        noises = torch.rand(batch.images.shape, generator=draws, dtype=torch.float64) - 0.5
        coins = torch.rand(size, generator=draws, dtype=torch.float64).tolist()
        filled = list(images)
        for i, y in enumerate(labels):
            if wants[i] < self.counts[y] / max(self.counts):
                self.seen["kept"] += 1
                continue
            weights = [1 - self.spec.beta ** max(self.counts[seed] - self.counts[y], 0) for seed in labels]
            if not any(weights):
                self.seen["no seed"] += 1
                continue
            # The first of exponential clocks to ring: waits of -log(u) / w.
            waits = [-math.log(u) / w if w else math.inf for u, w in zip(races[i], weights, strict=True)]
            j = waits.index(min(waits))
            made, probability = self._translate(images[j], noises[i], labels[j], y)
            case = "unsure" if probability < self.spec.gamma else "accepted" if coins[i] < weights[j] else "unlucky"
            self.seen[case] += 1
            if case == "accepted":
                filled[i] = made
        return filled

    def _translate(self, image: Tensor, noise: Tensor, source: int, target: int) -> tuple[Tensor, float]:
        f, g, spec = self.f.eval(), self.g.eval(), self.spec
        scale = min(1.0, spec.noise / math.sqrt(sum(value**2 for value in noise.flatten().tolist())))
        image = cut(image + scale * noise)
        for _ in range(spec.steps):
            image = image.clone().requires_grad_()
            loss = cross_entropy(g(image[None])[0], target) + spec.lam * f(image[None])[0][source]
            (slope,) = torch.autograd.grad(loss, image)
            length = math.sqrt(sum(value**2 for value in slope.flatten().tolist()))
            image = cut(image.detach() - spec.step_size * slope / length)
        with torch.no_grad():
            powers = [math.exp(z) for z in g(image[None])[0].tolist()]
        return image, powers[target] / sum(powers)


def compare(spec: M2m, index: int, size: int) -> Counter[str]:
    """Check one step against the oracle, and return how often each of its cases occurred."""
    step = make_step(spec)
    oracle = Oracle(step, spec)
    theirs = oracle.loss(*pair(index, size), LATE, generator(index, "draws"))
    agree(step, run(step, LATE, size, index), oracle.f, theirs)
    return oracle.seen


def cut(image: Tensor) -> Tensor:
    values = [min(max(value, 0.0), 1.0) for value in image.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).view_as(image)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lam": 0.0}, {"noise": 0.0}, {"noise": 1e3, "steps": 2}, {"steps": 0}, {"step_size": 1.0}, {"beta": 0.0}],
    ids=repr,
)
def test_is_m2m(changes: dict[str, Any]) -> None:
    spec, seen = row(**changes), Counter[str]()
    for index, size in enumerate((10, 7, 10)):
        seen += compare(spec, index, size)
    assert seen["accepted"] > 0


def test_the_comparison_meets_every_case() -> None:
    seen = Counter[str]()
    for index in range(8):
        seen += compare(row(gamma=0.5), index, 10 if index % 2 else 2)
    assert set(seen) == {"kept", "no seed", "unsure", "unlucky", "accepted"}


@pytest.mark.parametrize(("epoch", "side"), [(0, 0), (159, 0), (160, 1)])
def test_the_balanced_batch_takes_over_at_epoch_160_of_200(epoch: int, side: int) -> None:
    step = make_step(row(start=0.8, gamma=1.5))
    assert run(step, epoch / 200).equal(run_plain(side, epoch / 200))


def test_before_the_start_nothing_is_drawn() -> None:
    draws = generator(0, "draws")
    make_step(row())(*pair(0, 10), progress=at(0.4), generator=draws)
    assert draws.get_state().equal(generator(0, "draws").get_state())


@pytest.mark.parametrize("changes", [{"gamma": 1.5}, {"beta": 1.0}], ids=repr)
def test_where_nothing_is_accepted_it_is_class_balanced_resampling(changes: dict[str, Any]) -> None:
    objective = make_objective(LDAM(max_margin=0.5, scale=30.0), DRW)
    assert run(make_step(row(**changes), objective)).equal(run_plain(1, objective=objective))
    assert differ(run(make_step(row(), objective)), run_plain(1, objective=objective))


def test_equal_counts_translate_nothing() -> None:
    objective = make_objective(counts=(8,) * 5)
    assert run(make_step(row(gamma=0.0), objective)).equal(run_plain(1, objective=objective))


@pytest.mark.parametrize("label", range(5))
def test_a_batch_of_one_class_has_no_seeds(label: int) -> None:
    step, (images, _) = make_step(row(gamma=0.0)), pair(0, 10)[1]
    assert step.rebalanced(Batch(images, torch.full((10,), label)), generator(0, "draws")).equal(images)


def test_images_of_the_largest_class_stay() -> None:
    step, (images, labels) = make_step(row(gamma=0.0, beta=0.0)), pair(0, 40)[1]
    filled = step.rebalanced(Batch(images, labels), generator(0, "draws"))
    changed = (filled != images).flatten(1).any(1)
    assert not changed[labels == 0].any()
    assert changed[labels == 4].sum() > (labels == 4).sum() / 2


def test_an_image_gives_way_the_more_often_the_rarer_its_class() -> None:
    objective, labels = make_objective(counts=(5, 20, 1, 15, 2)), torch.arange(5).repeat(200)
    step = make_step(row(gamma=0.0, beta=0.0, steps=0, noise=1.0), objective)
    images = torch.rand(1000, 3, 8, 8, dtype=torch.float64, generator=generator(0, "images"))
    filled = step.rebalanced(Batch(images, labels), generator(0, "draws"))
    changed = (filled != images).flatten(1).any(1).double()
    for label, count in enumerate((5, 20, 1, 15, 2)):
        expected = 1 - count / 20
        spread = (expected * (1 - expected) / 200) ** 0.5
        assert float(changed[labels == label].mean()) == pytest.approx(expected, abs=4 * spread + 1e-9)


def test_seeds_are_drawn_by_their_weights() -> None:
    counts, number = torch.tensor([20.0, 12.0, 7.0, 3.0, 1.0], dtype=torch.float64), 4000
    draws = generator(0, "seeds")
    seeds, chances = zip(*(draw_seeds(counts, 0.9, draws) for _ in range(number)), strict=True)
    for i, own in enumerate(counts.tolist()):
        weights = [1 - 0.9 ** max(other - own, 0) for other in counts.tolist()]
        drawn = torch.stack(seeds)[:, i]
        for j, weight in enumerate(weights):
            expected = weight / sum(weights) if any(weights) else float(j == 0)
            assert float((drawn == j).double().mean()) == pytest.approx(expected, abs=0.04)
        assert torch.stack(chances)[:, i].tolist() == pytest.approx([weights[j] for j in drawn.tolist()])


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.sampled_from([0.0, 0.9, 0.999, 1.0]))
def test_a_seed_has_more_images_or_no_chance(counts: list[int], beta: float) -> None:
    seeds, chances = draw_seeds(torch.tensor(counts, dtype=torch.float64), beta, generator(0, "seeds"))
    for i, (seed, chance) in enumerate(zip(seeds.tolist(), chances.tolist(), strict=True)):
        more = counts[seed] - counts[i]
        assert chance == pytest.approx(1 - beta ** max(more, 0), abs=1e-12)
        assert (chance > 0) == (beta < 1 and max(counts) > counts[i])


@given(st.integers(1, 6), st.sampled_from([0.0, 0.5, 2.0, 1e3]))
def test_noise_has_its_norm_at_most(size: int, norm: float) -> None:
    images = torch.rand(size, 3, 8, 8, dtype=torch.float64, generator=generator(0, "images"))
    noise = draw_noise(images, norm, generator(size, "noise"))
    lengths = noise.flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([norm] * size if norm < 3 else lengths.tolist(), rel=1e-6)
    assert noise.abs().max() <= 0.5


def test_a_vanishing_gradient_moves_nothing() -> None:
    rows = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), 1e-30)])
    scaled = unit(rows)
    assert scaled.isfinite().all()
    assert scaled[0].equal(torch.zeros(1, 2, 2))
    assert float(scaled[1].norm()) == pytest.approx(1)


def test_translations_stay_images_and_g_sees_more_of_the_target() -> None:
    step, (images, labels) = make_step(row(lam=0.0, steps=10)), pair(0, 10)[1]
    targets = (labels + 1) % 5
    made, _ = step.translate(images, labels, targets)
    assert made.min() >= 0 and made.max() <= 1
    assert (made - images).flatten(1).norm(dim=1).max() <= 10 * 0.1 + 1e-9
    before, after = (step.guide(x).softmax(1).gather(1, targets[:, None]) for x in (images, made))
    assert (after > before).all()


def test_f_sees_less_of_the_seeds_class() -> None:
    images, labels = pair(0, 10)[1]
    logits = []
    for lam in (0.0, 100.0):
        step = make_step(row(lam=lam))
        made, _ = step.translate(images, labels, (labels + 1) % 5)
        logits.append(step.network.eval()(made).gather(1, labels[:, None]))
    assert (logits[1] < logits[0]).all()


def test_the_translation_leaves_both_networks_as_they_were() -> None:
    step = make_step(row())
    step.network.stages[0].eval()  # a module in a mode of its own keeps it
    modes = {name: module.training for name, module in step.named_modules()}
    before = {name: value.clone() for name, value in step.state_dict().items()}
    made = step.rebalanced(pair(0, 10)[1], generator(0, "draws"))
    assert not made.requires_grad
    assert all(value.equal(before[name]) for name, value in step.state_dict().items())
    assert {name: module.training for name, module in step.named_modules()} == modes
    assert all(parameter.grad is None for parameter in step.parameters())


def test_gradients_reach_f_alone() -> None:
    step = make_step(row())
    run(step).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in step.network.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in step.guide.parameters())


def test_g_is_the_network_before_it_was_drawn_afresh() -> None:
    step = make_step(row())
    for name, value in sharp_network(1, 8.0).double().state_dict().items():
        assert step.guide.state_dict()[name].equal(value)
    assert all(value.requires_grad for value in step.network.parameters())


def test_g_stays_in_eval_mode_and_as_it_is_through_training() -> None:
    network = tiny.make_network()
    step = row().step_for(network, make_objective())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = Optimisation(
        epochs=2,
        batch_size=16,
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.01,
        warmup=0,
        schedule=CosineSchedule(),
    )
    still = Augmentation(crop="none", pad=0, flip=False, jitter=0, policy="none", cutout=0)
    data = ImageBatches(tiny.make_split().train, ("instance_balanced", "class_balanced"), 16, still, 2, 0)
    fit(step, data, plan, Run(name="tiny", seed=0, device=torch.device("cpu")))
    assert isinstance(step, M2mStep)
    assert all(value.equal(before[name]) for name, value in step.guide.state_dict().items())
    assert any(not value.equal(before[name]) for name, value in network.state_dict().items())
    step.train()
    assert all(module.training for module in step.network.modules())
    assert not any(module.training for module in step.guide.modules())


def test_under_autocast_gradients_reach_everything() -> None:
    network = tiny.make_network().train()
    step = row(gamma=0.0).step_for(network, make_objective())
    two = (Batch(images.float(), labels) for images, labels in pair(0, 10))
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(*two, progress=at(LATE), generator=generator(0, "draws"))
    assert loss.dtype == torch.float32
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(network.parameters())))


def test_says_what_it_needs_of_its_row() -> None:
    assert M2m.batches == 2
    assert M2m.needs_start
    assert M2m.trains_afresh


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 1.1},
        {"beta": 1.1},
        {"lam": -1.0},
        {"gamma": -0.1},
        {"noise": -1.0},
        {"steps": -1},
        {"step_size": -1.0},
    ],
    ids=repr,
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        row(**wrong)


@pytest.mark.parametrize("key", CODE)
def test_its_row_names_every_key(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        M2m.model_validate({k: v for k, v in CODE.items() if k != key})
