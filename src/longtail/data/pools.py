"""What a source offers before the tail is cut out of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtail.images.labeled import ImageFiles, LabeledImages

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pools:
    """The images of a source, by the parts it comes with.

    Args:
        train: the pool that training images are cut from.
        val: official validation images, or None.
        test: official test images, or None: then they are chosen by content out of `train`.
        classes: K names in label order.
        mean, std: per channel, of pixels in [0, 1].
        keys: N byte strings that say which image is which; their sha256 is the digest of the split.
        contents: N content hashes of the train pool where sides go by content; None for official files.
    """

    train: LabeledImages
    val: LabeledImages | None
    test: LabeledImages | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    keys: Sequence[bytes]
    contents: tuple[str, ...] | None


def index_key(index: int) -> bytes:
    """Return the key of an image of an official file: its index, 8 bytes little-endian signed."""
    return index.to_bytes(8, "little", signed=True)


def take(images: LabeledImages, indices: Tensor) -> LabeledImages:
    """Return the images at (M,) int64 indices, in that order."""
    chosen = indices.tolist()
    source = images.images
    if isinstance(source, ImageFiles):
        picked: Tensor | ImageFiles = ImageFiles(source.root, tuple(source.paths[i] for i in chosen), source.size)
    else:
        picked = source[indices].contiguous()
    return LabeledImages(picked, images.labels[indices], images.num_classes, tuple(images.ids[i] for i in chosen))


def official(images: Tensor, labels: Sequence[int], num_classes: int, part: str) -> LabeledImages:
    """Wrap the (N, C, H, W) uint8 images of one official file; an id is `train/17`, the index in that file."""
    ids = tuple(f"{part}/{index}" for index in range(len(labels)))
    return LabeledImages(images, torch.as_tensor(labels, dtype=torch.int64), num_classes, ids)
