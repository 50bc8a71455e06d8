"""RSG's equations 1 to 7 and Algorithm 1 again, in plain loops, and the comparison of our step with them.

Written from the paper, not from our code: loops over samples, centres, pairs, locations and filter taps, with torch's
numbers for the sake of their gradients. Only the network is torch's on both sides. Our documented draw, one permutation
per step, is repeated from a generator of equal seed.
"""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

import tiny
from longtail.learners.rsg import RSG, ContrastiveModule, RSGStep
from longtail.loading.batches import Batch
from longtail.losses.cross_entropy import CrossEntropy
from longtail.seeding import generator
from longtail.training.objective import Objective, Reweighting

ROW: dict[str, Any] = {
    "centres": 3,
    "head_share": 0.4,
    "transfer_strength": 1.0,
    "lambda_cesc": 0.1,
    "lambda_mv": 0.01,
    "start": 0.5,
    "position": -1,
    "cm_kernel": 3,
    "cm_pair": "paper",
    "mv_layout": "paper",
    "mv_terms": ("direction", "length", "contrast"),
    "generation": "transform",
}
# Progress and images per class; the first two classes are heads.
STEPS: list[tuple[float, tuple[int, ...]]] = [
    (0.0, (4, 2, 2, 1, 1)),
    (0.25, (3, 2, 2, 1, 1)),  # odd
    (0.5, (5, 3, 2, 1, 0)),  # 8 heads, 3 tails
    (0.5, (1, 1, 4, 2, 1)),  # 2 heads, 7 tails
    (0.75, (4, 3, 0, 0, 0)),  # no tails
    (0.75, (0, 0, 3, 2, 1)),  # no heads
    (0.75, (2, 2, 2, 1, 1)),
]
REWEIGHTING = Reweighting(beta=0.9, start=0.5, divisor="weights")


def row(**changes: Any) -> RSG:
    """Return the spec of the scenario with some keys changed."""
    return RSG.model_validate(ROW | changes)


def make_step(spec: RSG, seed: int = 0) -> RSGStep:
    """Return a step in float64 in the midst of its training: centres apart, no bias zero, a slim contrastive module."""
    objective = Objective(CrossEntropy(), REWEIGHTING, torch.tensor(tiny.COUNTS))
    step = spec.step_for(tiny.make_network(seed), objective)
    assert isinstance(step, RSGStep)
    draws = generator(seed, "rsg oracle")
    step.rare.contrastive = ContrastiveModule(step.rare.centres.weight.shape[1], spec.cm_kernel, width=4)
    with torch.no_grad():
        for name, parameter in step.rare.named_parameters():
            size = 0.3 if "contrastive" in name or "transformation" in name else 1.0
            parameter.copy_(size * torch.randn(parameter.shape, generator=draws))
    return step.double().train()


def make_batch(index: int, counts: tuple[int, ...]) -> Batch:
    """Draw that many images of each class of the tiny split, in random order, in float64."""
    data, draws = tiny.make_split().train, generator(index, "rsg batch")
    assert isinstance(data.images, Tensor)
    rows = torch.cat([(data.labels == label).nonzero()[:number, 0] for label, number in enumerate(counts)])
    rows = rows[torch.randperm(len(rows), generator=draws)]
    return Batch(data.images[rows].double() / 255, data.labels[rows])


def compare(spec: RSG, change: Callable[[RSGStep], None] = lambda step: None) -> Counter[str]:
    """Train our step and the oracle side by side; losses, gradients and BatchNorm statistics must agree in every step.

    Args:
        change: made to our step alone, to see the comparison fail.

    Returns:
        How often each case of the algorithm occurred.
    """
    step = make_step(spec)
    oracle = Oracle(step, spec)
    change(step)
    for index, (progress, counts) in enumerate(STEPS):
        batch, t = make_batch(index, counts), torch.tensor(progress, dtype=torch.float64)
        ours = step(batch, progress=t, generator=generator(index, "draws"))
        theirs = oracle.loss(batch, progress, generator(index, "draws"))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        _descend(step, oracle, ours, theirs)
    for name, value in oracle.step.network.named_buffers():
        torch.testing.assert_close(step.network.get_buffer(name), value, rtol=1e-9, atol=1e-9)
    return oracle.seen


def _descend(step: RSGStep, oracle: "Oracle", ours: Tensor, theirs: Tensor) -> None:
    pairs = [(name, value, oracle.step.get_parameter(name)) for name, value in step.named_parameters()]
    mine = torch.autograd.grad(ours, [one for _, one, _ in pairs], allow_unused=True)
    other = torch.autograd.grad(theirs, [two for _, _, two in pairs], allow_unused=True)
    for (name, one, two), a, b in zip(pairs, mine, other, strict=True):
        assert (a is None) == (b is None), f"only one side has a gradient of {name}"
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=f"the gradients of {name} differ")
            with torch.no_grad():
                one.sub_(0.01 * a)
                two.sub_(0.01 * b)


class Oracle:
    """Algorithm 1, one step at a time."""

    def __init__(self, step: RSGStep, spec: RSG) -> None:
        self.step, self.spec = deepcopy(step), spec  # for its weights: its own methods are never called
        by_count = sorted(range(5), key=lambda label: (-tiny.COUNTS[label], label))
        self.frequent = set(by_count[: round(spec.head_share * 5)])
        self.seen: Counter[str] = Counter()

    def loss(self, batch: Batch, progress: float, draws: torch.Generator) -> Tensor:
        """Equation 7."""
        spec, network, labels = self.spec, self.step.network, batch.labels.tolist()
        x = network.maps(batch.images, stop=spec.position)
        order = torch.randperm(len(labels), generator=draws).tolist()
        fixed = [maps.detach() for maps in x]
        cesc, mv = self.centre_term(fixed, labels), torch.zeros((), dtype=torch.float64)
        if progress < spec.start:
            cesc = cesc + self.contrast_term(fixed, labels, order)
        else:
            new, new_labels, mv = self.generate(fixed, labels, order)
            x, labels = torch.stack([*x, *new]), labels + new_labels
        last = network.maps(x, start=1) if spec.position is not None else x
        logits = network.classifier(last.sum((2, 3)) / (last.shape[2] * last.shape[3]))
        weights = self.weights(progress)
        losses = [weights[y] * -(z[y].exp() / z.exp().sum()).log() for z, y in zip(logits, labels, strict=True)]
        l_cls = torch.stack(losses).sum() / sum(weights[y] for y in labels)
        total: Tensor = l_cls + spec.lambda_cesc * cesc + spec.lambda_mv * mv
        return total

    def weights(self, progress: float) -> list[float]:
        """Class-balanced weights with mean 1, deferred; to seven digits, as an objective keeps them."""
        beta = REWEIGHTING.beta if progress >= REWEIGHTING.start else 0.0
        inverse = [(1 - beta) / (1 - beta**n) for n in tiny.COUNTS]
        weights: list[float] = torch.tensor([w / sum(inverse) * 5 for w in inverse], dtype=torch.float32).tolist()
        return weights

    def gamma(self, x: Tensor, label: int) -> list[Tensor]:
        """Equation 1."""
        module, average = self.step.rare.centres, [channel.sum() / channel.numel() for channel in x]
        exponentials = [
            (sum(module.weight[label, d, i] * a for d, a in enumerate(average)) + module.bias[label, i]).exp()
            for i in range(self.spec.centres)
        ]
        return [value / torch.stack(exponentials).sum() for value in exponentials]

    def centre(self, x: Tensor, label: int) -> Tensor:
        """up(C) of equation 3."""
        gamma = [value.item() for value in self.gamma(x, label)]
        return up(self.step.rare.centres.centres[label, gamma.index(max(gamma))].detach(), x)

    def centre_term(self, x: list[Tensor], labels: list[int]) -> Tensor:
        """The first term of equation 5."""
        total = torch.zeros((), dtype=torch.float64)
        for maps, label in zip(x, labels, strict=True):
            for i, share in enumerate(self.gamma(maps, label)):
                total = total + share * ((maps - up(self.step.rare.centres.centres[label, i], maps)) ** 2).sum()
        return total / len(x)

    def contrast_term(self, x: list[Tensor], labels: list[int], order: list[int]) -> Tensor:
        """The second term of equation 5; gamma* is the probability of the same class."""
        half = len(order) // 2
        total = torch.zeros((), dtype=torch.float64)
        for one, two in zip(order[:half], order[half : 2 * half], strict=True):
            same = self.contrastive(x[one], x[two])[1]
            y = int(labels[one] == labels[two])
            self.seen["same" if y else "different"] += 1
            total = total - (y * same.log() + (1 - y) * (1 - same).log())
        self.seen["left over"] += len(order) % 2
        return total / half

    def contrastive(self, one: Tensor, two: Tensor, frozen: bool = False) -> Tensor:
        """Equation 2: the probabilities of different and of same."""
        module = deepcopy(self.step.rare.contrastive).requires_grad_(False) if frozen else self.step.rare.contrastive
        maps = convolve(torch.cat([one, two]), module.first.weight, module.first.bias)
        maps = convolve(maps.clamp(min=0), module.second.weight, module.second.bias)
        average = torch.stack([channel.sum() / channel.numel() for channel in maps])
        exponentials = torch.stack([row @ average for row in module.verdict.weight]) + module.verdict.bias
        return exponentials.exp() / exponentials.exp().sum()

    def generate(self, x: list[Tensor], labels: list[int], order: list[int]) -> tuple[list[Tensor], list[int], Tensor]:
        """Equations 3, 4 and 6 for s_new pairs."""
        spec, total = self.spec, torch.zeros((), dtype=torch.float64)
        heads = [i for i in order if labels[i] in self.frequent]
        tails = [i for i in order if labels[i] not in self.frequent]
        if not heads or not tails:
            self.seen["no heads" if tails else "no tails"] += 1
            return [], [], total
        pairs = self.pairs(heads, tails)
        new = []
        for head, tail in pairs:
            u = x[head] - self.centre(x[head], labels[head])
            t = u
            if spec.generation == "transform":
                parameter = self.step.rare.get_parameter
                t = convolve(u, parameter("transformation.weight"), parameter("transformation.bias"))
            new.append((self.centre(x[tail], labels[tail]) if spec.generation == "centre" else x[tail]) + t)
            total = total + self.mv(t, u, x[tail] - self.centre(x[tail], labels[tail]), x[head])
        return new, [labels[tail] for _, tail in pairs], total / len(pairs)

    def pairs(self, heads: list[int], tails: list[int]) -> list[tuple[int, int]]:
        """s_new of section 3, with heads and tails in changed places where there are more tails."""
        more, fewer = (heads, tails) if len(heads) >= len(tails) else (tails, heads)
        self.seen["more heads" if more is heads else "more tails"] += 1
        s_new = max(int(self.spec.transfer_strength * len(more) / len(fewer)), 1) * len(fewer)
        self.seen["several segments"] += s_new > len(fewer)
        pairs = [(more[j], fewer[j % len(fewer)]) for j in range(s_new)]
        return pairs if more is heads else [(head, tail) for tail, head in pairs]

    def mv(self, t: Tensor, u: Tensor, v: Tensor, head: Tensor) -> Tensor:
        """Equation 6 for one pair; in the reference layout as the released code has it, less its constant."""
        spec, total = self.spec, torch.zeros((), dtype=torch.float64)
        reference, dim = spec.mv_layout == "reference", len(t)
        for a, b, c in zip(*(cut(maps, reference) for maps in (t, u, v)), strict=True):
            if "direction" in spec.mv_terms and reference:
                total = total + (a / length(a) * (c / length(c)) - 1).abs().sum() - (dim - 1)
            elif "direction" in spec.mv_terms:
                total = total + ((a * c).sum() / (length(a) * length(c)) - 1).abs()
            if "length" in spec.mv_terms:
                total = total + (length(a) - length(b)).abs()
        if "contrast" in spec.mv_terms:
            one, two = (t, u) if spec.cm_pair == "paper" else (head, t)
            total = total - self.contrastive(one, two, frozen=True)[0].log()
        return total


def up(centre: Tensor, maps: Tensor) -> Tensor:
    """Repeat the numbers (D,) of a centre along width and height."""
    return torch.stack([torch.stack([torch.stack([c] * maps.shape[2])] * maps.shape[1]) for c in centre])


def length(vector: Tensor) -> Tensor:
    """Euclidean."""
    return (vector**2).sum() ** 0.5


def cut(maps: Tensor, reference: bool) -> list[Tensor]:
    """The vectors of one sample: of each location, or of D numbers in memory order, channel after channel."""
    dim, height, width = maps.shape
    if reference:
        flat = torch.stack([maps[d, j, k] for d in range(dim) for j in range(height) for k in range(width)])
        return [flat[start : start + dim] for start in range(0, len(flat), dim)]
    return [maps[:, j, k] for j in range(height) for k in range(width)]


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Sum over filter taps, zeros around the maps (D, H, W); stride 1, sizes kept."""
    size = weight.shape[2]
    around = size // 2
    height, width = maps.shape[1:]
    padded = torch.zeros(len(maps), height + 2 * around, width + 2 * around, dtype=maps.dtype)
    padded[:, around : around + height, around : around + width] = maps
    assert bias is not None
    out = bias[:, None, None].expand(-1, height, width)
    for j in range(size):
        for k in range(size):
            out = out + torch.tensordot(weight[:, :, j, k], padded[:, j : j + height, k : k + width], dims=1)
    return out
