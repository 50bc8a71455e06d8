"""Which images an epoch shows: the family p_j proportional to n_j^q over classes, and the class-aware cycle.

    instance_balanced   q = 1, without replacement: every image once
    square_root         q = 1/2
    class_balanced      q = 0: a class uniformly, then one of its images
    reversed            q = -1: the rarer, the more often
    class_aware         classes in shuffled cycles, 4 images each from the class's own shuffled cycle

Source    Kang et al., ICLR 2020, arXiv:1910.09217, eq. 1, and its ClassAwareSampler; reversed: Zhou et al., CVPR 2020,
          arXiv:1912.02413 (BBN)
Differs   the class-aware cycles start afresh each epoch, which is thereby a function of its seed alone
"""

from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["instance_balanced", "square_root", "class_balanced", "class_aware", "reversed"]

POWERS = {"square_root": 0.5, "class_balanced": 0.0, "reversed": -1.0}
CONSECUTIVE = 4  # images that a class contributes when the class-aware cycle comes to it


def epoch_indices(
    name: Sampler, labels: Tensor, class_counts: Tensor, length: int, generator: torch.Generator, progress: float
) -> Tensor:
    """Draw the images of one epoch, in order; classes without images are never drawn.

    Args:
        labels: (N,) int64.
        class_counts: (K,) int64, images per class in `labels`.
        length: indices wanted; the epochs of `instance_balanced` are permutations if it is N.
        progress: share of training done in [0, 1), for samplers that change; those above do not.

    Returns:
        (length,) int64 indices into `labels`.
    """
    assert torch.equal(class_counts, torch.bincount(labels, minlength=len(class_counts)))
    if name == "instance_balanced":
        rounds = -(-length // len(labels))
        return torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(rounds)])[:length]
    if name == "class_aware":
        return _class_aware(labels, class_counts, length, generator)
    return _by_class(POWERS[name], labels, class_counts, length, generator)


def _by_class(power: float, labels: Tensor, class_counts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Draw classes with p_j proportional to n_j^power, then images uniformly, both with replacement."""
    weights = torch.where(class_counts > 0, class_counts.double() ** power, 0.0)
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
