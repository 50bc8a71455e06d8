"""CSA's Algorithm 1 again, in plain loops over Python numbers, and the comparison of our step with it.

Written from the paper and its released code, not from our code. Only the network is torch's on both sides; what the
method adds (maps to masks, the bank, the mixing, the losses) is loops here. Our documented draws are repeated from a
generator of equal seed.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tiny
from longtail.learners.csa import CSA, CSAStep
from longtail.loading.batches import Batch
from longtail.losses.cross_entropy import CrossEntropy
from longtail.seeding import generator
from longtail.training.objective import Objective

Plane = list[list[float]]
ROW: dict[str, Any] = {
    "threshold": 0.3,
    "volume": 13,
    "start": 0.25,
    "emptied": "each_epoch",
    "bank": True,
    "mask": True,
    "masks_from": "uniform",
    "mixing": "random",
    "mixup": False,
}
# Four epochs of four steps with a smaller last batch, as an epoch has one.
STEPS = [(epoch / 4, size) for epoch in range(4) for size in (10, 10, 10, 7)]


def row(**changes: Any) -> CSA:
    """Return the spec of the scenario with some keys changed."""
    return CSA.model_validate(ROW | changes)


def make_step(spec: CSA, seed: int = 0) -> CSAStep:
    """Return a step in float64 whose network is sure of some images and unsure of others."""
    network = tiny.make_network(seed)
    with torch.no_grad():
        network.classifier.weight.mul_(2)
    step = spec.step_for(network, Objective(CrossEntropy(), None, torch.tensor(tiny.COUNTS)))
    assert isinstance(step, CSAStep)
    return step.double().train()


def batches(index: int, size: int) -> tuple[Batch, Batch]:
    """Draw a uniform and a class-balanced batch of the tiny split in float64."""
    data, draws = tiny.make_split().train, generator(index, "csa batches")
    assert isinstance(data.images, Tensor)
    uniform = torch.randperm(len(data), generator=draws)[:size]
    classes = torch.randint(5, (size,), generator=draws).tolist()
    balanced = [int((data.labels == label).nonzero()[0]) for label in classes]
    return tuple(Batch(data.images[rows].double() / 255, data.labels[rows]) for rows in (uniform, balanced))  # type: ignore[return-value]


def compare(spec: CSA, change: Callable[[CSAStep], None] = lambda step: None) -> Counter[str]:
    """Train our step and the oracle side by side; losses, gradients and BatchNorm statistics must agree in every step.

    Args:
        change: made to our step alone, to see the comparison fail.

    Returns:
        How often each case of the algorithm occurred.
    """
    step = make_step(spec)
    oracle = Oracle(step, spec)
    change(step)
    for index, (progress, size) in enumerate(STEPS):
        uniform, balanced = batches(index, size)
        t = torch.tensor(progress, dtype=torch.float64)
        ours = step(uniform, balanced, progress=t, generator=generator(index, "draws"))
        theirs = oracle.loss(uniform, balanced, progress, generator(index, "draws"))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        _descend(step, oracle, ours, theirs)
    for name, value in oracle.step.network.named_buffers():
        torch.testing.assert_close(step.network.get_buffer(name), value, rtol=1e-9, atol=1e-9)
    return oracle.seen


def _descend(step: CSAStep, oracle: "Oracle", ours: Tensor, theirs: Tensor) -> None:
    pairs = [(name, value, oracle.step.get_parameter(name)) for name, value in step.named_parameters()]
    mine = torch.autograd.grad(ours, [one for _, one, _ in pairs], allow_unused=True)
    other = torch.autograd.grad(theirs, [two for _, _, two in pairs], allow_unused=True)
    for (name, one, two), a, b in zip(pairs, mine, other, strict=True):
        assert (a is None) == (b is None), f"only one side has a gradient of {name}"
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=f"the gradients of {name} differ")
            with torch.no_grad():
                one.sub_(0.05 * a)
                two.sub_(0.05 * b)


class Oracle:
    """Algorithm 1, one step at a time."""

    def __init__(self, step: CSAStep, spec: CSA) -> None:
        self.step, self.spec = deepcopy(step), spec  # for its weights: its own methods are never called
        self.queue: list[tuple[list[Plane], Plane]] = []
        self.progress = -1.0
        self.seen: Counter[str] = Counter()

    def loss(self, uniform: Batch, balanced: Batch, progress: float, draws: torch.Generator) -> Tensor:
        """Lines 6 to 30, with the released code's warm start and emptying."""
        spec, network = self.spec, self.step.network
        loss_b: Tensor | float = 0.0
        if progress >= spec.start:
            if spec.bank:
                self._empty(progress)
                self._push(uniform)
            images = self._balanced_images(balanced, draws)
            if images is not None:
                self.seen["balanced"] += 1
                features = network.train().features(images)
                loss_b = mean(
                    [cross_entropy(z, int(y)) for z, y in zip(self.f_b(features), balanced.labels, strict=True)]
                )
        return self._uniform(uniform, progress, draws) + loss_b

    def f_b(self, features: Tensor) -> Tensor:
        """Logits of the second classifier."""
        return features @ self.step.balanced.weight.T + self.step.balanced.bias

    def _empty(self, progress: float) -> None:
        if self.spec.emptied == "each_epoch" and progress != self.progress:
            self.seen["emptied"] += len(self.queue) > 0
            self.queue = []
        self.progress = progress

    @torch.no_grad()
    def _push(self, batch: Batch) -> None:
        network = self.step.network.eval()
        maps = network.maps(batch.images)
        logits = network.classifier(maps.mean((2, 3)))
        source = network.classifier if self.spec.masks_from == "uniform" else self.step.balanced
        network.train()
        for i, label in enumerate(batch.labels.tolist()):
            exponentials = [math.exp(z) for z in logits[i].tolist()]
            if exponentials[label] / sum(exponentials) < self.spec.threshold:
                self.seen["unsure"] += 1
                continue
            mask = self._mask(maps[i].tolist(), source.weight[label].tolist(), len(batch.images[i][0]))
            if mask is not None:
                self.queue.append((batch.images[i].tolist(), mask))
            if len(self.queue) > self.spec.volume:
                self.seen["pushed out"] += 1
                self.queue.pop(0)

    def _mask(self, maps: list[Plane], weight: list[float], size: int) -> Plane | None:
        if not self.spec.mask:
            return [[1.0] * size for _ in range(size)]
        side = range(len(maps[0]))
        cam = [[sum(w * maps[d][i][j] for d, w in enumerate(weight)) for j in side] for i in side]
        self.seen["negative"] += any(value < 0 for line in cam for value in line)
        cam = [[max(value, 0.0) for value in line] for line in cam]
        low, high = min(map(min, cam)), max(map(max, cam))
        if high - low <= 1e-6:
            self.seen["flat"] += 1
            return None
        wide = bicubic([[(value - low) / (high - low) for value in line] for line in cam], size)
        self.seen["overshoot"] += any(not 0 <= value <= 1 for line in wide for value in line)
        return [[(1 - min(max(value, 0.0), 1.0)) ** 2 for value in line] for line in wide]

    def _balanced_images(self, batch: Batch, draws: torch.Generator) -> Tensor | None:
        spec, images = self.spec, batch.images
        if not spec.bank:
            return images
        if len(self.queue) < min(len(images), spec.volume):
            self.seen["waited"] += 1
            return None
        order = torch.randperm(len(self.queue), generator=draws).tolist()
        if spec.mixing == "random":
            share = float(torch.rand((), generator=draws, dtype=torch.float64))
        else:
            share = float(spec.mixing)
        chosen = [self.queue[order[i % len(order)]] for i in range(len(images))]
        pairs = zip(images.tolist(), chosen, strict=True)
        mixed = [blend(image, context, mask, share) for image, (context, mask) in pairs]
        return torch.tensor(mixed, dtype=torch.float64)

    def _uniform(self, batch: Batch, progress: float, draws: torch.Generator) -> Tensor:
        images, labels, mixup = batch.images, batch.labels.tolist(), self.spec.mixup
        network = self.step.network.train()
        if mixup is False or progress >= mixup.until:
            return mean([cross_entropy(z, y) for z, y in zip(network(images), labels, strict=True)])
        seed = int(torch.randint(2**63 - 1, (), generator=draws))
        share = float(np.random.default_rng(seed).beta(mixup.alpha, mixup.alpha))
        order = torch.randperm(len(images), generator=draws).tolist()
        self.seen["mixup"] += 1
        mixed = torch.stack([share * images[i] + (1 - share) * images[j] for i, j in enumerate(order)])
        losses = [
            share * cross_entropy(z, labels[i]) + (1 - share) * cross_entropy(z, labels[order[i]])
            for i, z in enumerate(network(mixed))
        ]
        return mean(losses)


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    """-log(exp(z_y) / sum_k exp(z_k)) of one sample, differentiable."""
    total = torch.stack([z.exp() for z in logits]).sum()
    return -(logits[label].exp() / total).log()


def mean(losses: Sequence[Tensor]) -> Tensor:
    """The mean of scalars."""
    return torch.stack(list(losses)).sum() / len(losses)


def blend(image: list[Plane], context: list[Plane], mask: Plane, share: float) -> list[Plane]:
    """Line 22, pixel by pixel."""
    side = range(len(mask))
    return [
        [
            [share * mask[i][j] * context[c][i][j] + (1 - share * mask[i][j]) * image[c][i][j] for j in side]
            for i in side
        ]
        for c in range(len(image))
    ]


def bicubic(plane: Plane, size: int) -> Plane:
    """Keys' cubic convolution with a = -0.75, pixel centres at half, edges repeated; square planes."""
    last, scale = len(plane) - 1, len(plane) / size

    def taps(i: int) -> list[tuple[int, float]]:
        centre = (i + 0.5) * scale - 0.5
        first = math.floor(centre) - 1
        return [(min(max(k, 0), last), _keys(abs(centre - k))) for k in range(first, first + 4)]

    return [
        [sum(a * b * plane[i][j] for i, a in taps(y) for j, b in taps(x)) for x in range(size)] for y in range(size)
    ]


def _keys(x: float, a: float = -0.75) -> float:
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
