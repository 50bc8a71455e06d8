"""The two nouns of the data: labelled images and a long-tailed split of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay on disk: too many for memory, decoded where they are needed.

    Args:
        root: folder that `paths` are relative to.
        paths: one file per image.
        size: side in pixels of the square that an image is brought to.
    """

    root: Path
    paths: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class LabeledImages:
    """Images with labels.

    Args:
        images: (N, C, H, W) uint8, or files on disk.
        labels: (N,) int64 in [0, num_classes).
        num_classes: K, also when some class has no image here.
        ids: N stable names, one per image (its index in the official file, or its path and content hash).
    """

    images: Tensor | ImageFiles
    labels: Tensor
    num_classes: int
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def class_counts(self) -> Tensor:
        """Images per class, (K,) int64."""
        return torch.bincount(self.labels, minlength=self.num_classes)


@dataclass(frozen=True)
class LongTailSplit:
    """What every method is given: a long-tailed train set, a validation set held out of it, a test set.

    Args:
        classes: K class names in label order.
        mean, std: per channel, of pixels in [0, 1]; the network normalises by them.
        digest: sha256 of the chosen images, the identity of this split.
    """

    train: LabeledImages
    val: LabeledImages
    test: LabeledImages
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def class_counts(self) -> Tensor:
        """Training images per class n_k, (K,) int64."""
        return self.train.class_counts
