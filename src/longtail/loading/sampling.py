"""Which images an epoch shows: the family p_j proportional to n_j^q over classes, and the class-aware cycle.

    instance_balanced   q = 1, without replacement: every image once
    square_root         q = 1/2
    class_balanced      q = 0: a class uniformly, then one of its images
    reversed            q = -1: the rarer, the more often
    progressively_balanced
                        p_j(t) = (1 - t) n_j / N + t / K, t the share of training done
    class_aware         classes in shuffled cycles, 4 images each from the class's own shuffled cycle
    deferred            DRS: instance_balanced until `start`, then p_j proportional to n_j / E_j, where
                        E_j = (1 - beta^n_j) / (1 - beta) is the effective number of samples

An epoch has N images, as many as there are, unless the sampler is balanced and its specification says otherwise: with
`{name: class_aware, epoch: balanced}` it has n_max K, the whole of Kang's sampler.

Source    Kang et al., ICLR 2020, arXiv:1910.09217, eq. 1 and 2, and its ClassAwareSampler, whose length is n_max K
          while its trainer stops after N images; reversed: Zhou et al., CVPR 2020, arXiv:1912.02413 (BBN); deferred:
          Cao et al., NeurIPS 2019, arXiv:1906.07413
Differs   the class-aware cycles start afresh each epoch, which is thereby a function of its seed alone; deferred
          sampling really changes what is drawn (the official code builds a sampler that its loader never uses)
Limits    equal counts: all draw classes equally often; deferred with beta = 1: class_balanced from `start` on
"""

from typing import Annotated, Literal, get_args

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor

from longtail.spec import Spec


class Deferred(Spec):
    """Deferred re-sampling (DRS): images as they are at first, by the effective number of their class at last.

    Args:
        beta: in [0, 1]; 0.9999 in the published tables, 1 for inverse counts, 0 for no change.
        start: progress from which classes are re-sampled; 0.8 is epoch 160 of 200.
    """

    name: Literal["deferred"] = "deferred"
    beta: float = Field(ge=0, le=1)
    start: float = Field(ge=0, le=1)


class Balanced(Spec):
    """A class-balanced sampler that says how long an epoch is.

    Args:
        epoch: `images` for N draws, as many as there are images; `balanced` for n_max K, after which the largest class
            has been shown once. The published numbers differ in it: CSA's CIFAR trainer stops after N images, its
            Fashion-MNIST notebooks do not.
    """

    name: Literal["class_balanced", "class_aware"]
    epoch: Literal["images", "balanced"]


Fixed = Literal[
    "instance_balanced", "square_root", "class_balanced", "class_aware", "reversed", "progressively_balanced"
]


BALANCED = ("class_balanced", "class_aware")


def _kind(value: object) -> str | None:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if isinstance(value, dict | Spec):
        return {"deferred": "deferred", **dict.fromkeys(BALANCED, "balanced")}.get(str(name))
    return "fixed" if value in get_args(Fixed) else None


def _balanced_kind(value: object) -> str | None:
    return kind if (kind := _kind(value)) == "balanced" else "fixed" if value in BALANCED else None


LONG_FORM = "{name: class_aware, epoch: balanced}"

Sampler = Annotated[
    Annotated[Fixed, Tag("fixed")] | Annotated[Balanced, Tag("balanced")] | Annotated[Deferred, Tag("deferred")],
    Discriminator(
        _kind,
        custom_error_type="sampler",
        custom_error_message=f"choose one of {', '.join(get_args(Fixed))}, {{name: deferred, beta: …, start: …}}, or "
        f"{LONG_FORM}",
    ),
]

BalancedSampler = Annotated[
    Annotated[Literal["class_balanced", "class_aware"], Tag("fixed")] | Annotated[Balanced, Tag("balanced")],
    Discriminator(
        _balanced_kind,
        custom_error_type="sampler",
        custom_error_message=f"choose one of {', '.join(BALANCED)}, or {LONG_FORM}",
    ),
]

POWERS = {"square_root": 0.5, "class_balanced": 0.0, "reversed": -1.0}
CONSECUTIVE = 4  # images that a class contributes when the class-aware cycle comes to it


def epoch_length(sampler: Sampler, class_counts: Tensor) -> int:
    """Return how many images an epoch shows: N, or n_max K (K classes that have images) for `epoch: balanced`.

    Args:
        class_counts: (K,) int64.
    """
    if isinstance(sampler, Balanced) and sampler.epoch == "balanced":
        return int(class_counts.max() * (class_counts > 0).sum())
    return int(class_counts.sum())


def epoch_indices(
    sampler: Sampler, labels: Tensor, class_counts: Tensor, length: int, generator: torch.Generator, progress: float
) -> Tensor:
    """Draw the images of one epoch, in order; classes without images are never drawn.

    Args:
        labels: (N,) int64.
        class_counts: (K,) int64, images per class in `labels`.
        length: indices wanted; the epochs of `instance_balanced` are permutations if it is N.
        progress: share of training done in [0, 1), for samplers that change.

    Returns:
        (length,) int64 indices into `labels`.
    """
    assert torch.equal(class_counts, torch.bincount(labels, minlength=len(class_counts)))
    name = sampler.name if isinstance(sampler, Balanced) else sampler
    if name == "instance_balanced" or (isinstance(sampler, Deferred) and progress < sampler.start):
        rounds = -(-length // len(labels))
        return torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(rounds)])[:length]
    if name == "class_aware":
        return _class_aware(labels, class_counts, length, generator)
    return _by_class(class_weights(sampler, class_counts, progress), labels, class_counts, length, generator)


def class_weights(sampler: Sampler, class_counts: Tensor, progress: float) -> Tensor:
    """Return (K,) float64, proportional to how often each class is drawn with replacement; 0 for an empty one."""
    counts = class_counts.double()
    if isinstance(sampler, Deferred):
        weights = counts / effective_number(class_counts, sampler.beta)
    elif sampler == "progressively_balanced":
        present = int((class_counts > 0).sum())
        weights = (1 - progress) * counts / counts.sum() + progress / present
    else:
        weights = counts ** POWERS[sampler.name if isinstance(sampler, Balanced) else sampler]
    return torch.where(class_counts > 0, weights, 0.0)


def effective_number(class_counts: Tensor, beta: float) -> Tensor:
    """Return (1 - beta^n) / (1 - beta) per class as (K,) float64, which is n for beta = 1 (Cui et al., CVPR 2019)."""
    counts = class_counts.double()
    if beta == 1:
        return counts
    # expm1 keeps the digits that 1 - beta^n loses for beta near 1
    return -torch.expm1(counts * torch.log(torch.tensor(beta, dtype=torch.float64))) / (1 - beta)


def _by_class(weights: Tensor, labels: Tensor, class_counts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Draw classes by weight, then images uniformly, both with replacement."""
    classes = torch.multinomial(weights, length, replacement=True, generator=generator)
    places = torch.rand(length, generator=generator, dtype=torch.float64) * class_counts[classes]
    return labels.argsort(stable=True)[_starts(class_counts)[classes] + places.long()]


def _class_aware(labels: Tensor, class_counts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    counts = class_counts[class_counts > 0]
    visits = -(-length // CONSECUTIVE)
    rounds = -(-visits // len(counts))
    classes = torch.rand((rounds, len(counts)), generator=generator).argsort(1)  # each round in its own order
    sequence, starts = _cycles(labels, counts, CONSECUTIVE * rounds, generator)
    first = starts[classes] + CONSECUTIVE * torch.arange(rounds)[:, None]
    return sequence[(first[:, :, None] + torch.arange(CONSECUTIVE)).flatten()[:length]]


def _cycles(labels: Tensor, counts: Tensor, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Repeat each class's images in cycles, each shuffled anew, until every class has at least `wanted`.

    Args:
        counts: (J,) images of the classes that have any.

    Returns:
        the sequences of all classes one after another; (J,) where each starts.
    """
    lengths = -(-wanted // counts) * counts
    starts, owner = _starts(lengths), torch.arange(len(counts)).repeat_interleave(lengths)
    place = torch.arange(len(owner)) - starts[owner]
    images = labels.argsort(stable=True)[_starts(counts)[owner] + place % counts[owner]]
    cycle = _starts(lengths // counts)[owner] + place // counts[owner]
    shuffled = torch.randperm(len(images), generator=generator)
    return images[shuffled[cycle[shuffled].argsort(stable=True)]], starts  # shuffled within each cycle


def _starts(lengths: Tensor) -> Tensor:
    return lengths.cumsum(0) - lengths
