"""Batches of images: which, in which order, augmented how; everything a function of (seed, epoch).

Images stay uint8 until they are on the device: a quarter of the bytes to move.
"""

from collections.abc import Iterator
from typing import Any

import torch

from longtail.images.decoding import decode, decode_bytes
from longtail.images.labeled import LabeledImages
from longtail.loading.augmentation import Augmentation
from longtail.loading.reading import Batch, Pass, read, read_share
from longtail.loading.sampling import Sampler, epoch_indices, epoch_length
from longtail.seeding import generator

__all__ = ["Batch", "ImageBatches", "augmented_batches", "clean_batches", "decode", "decode_bytes"]


class ImageBatches:
    """The batches of stage one; every image of an epoch is in one, so the last may be smaller.

    Args:
        samplers: each step has one batch of each; all have epochs of one length.
        epochs: of the whole training; samplers are told what share is done.
        seed: the training seed. The order of an epoch derives from (seed, "order", sampler's position, epoch), its
            augmentation from (seed, "augment", sampler's position, epoch): one row of draws per image of the data
            set for `instance_balanced`; one per place in the order for the others, which show an image repeatedly.
    """

    def __init__(
        self,
        images: LabeledImages,
        samplers: tuple[Sampler, ...],
        batch_size: int,
        augmentation: Augmentation,
        epochs: int,
        seed: int,
    ) -> None:
        self.images, self.samplers, self.batch_size = images, samplers, batch_size
        self.augmentation, self.epochs, self.seed = augmentation, epochs, seed

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, ...]]:
        """Yield the steps of an epoch (0-based); with several devices, this process's share of their rows.

        Raises:
            InputError: a file cannot be decoded.
        """
        return read_share(tuple(self._pass(position, epoch) for position in range(len(self.samplers))), self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: an epoch depends on the seed and its number alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""

    def _pass(self, position: int, epoch: int) -> Pass:
        images, sampler = self.images, self.samplers[position]
        order_from = generator(self.seed, "order", position, epoch)
        done = epoch / self.epochs
        length = epoch_length(sampler, images.class_counts)
        order = epoch_indices(sampler, images.labels, images.class_counts, length, order_from, done)
        draws = self.augmentation.draw(length, generator(self.seed, "augment", position, epoch))
        rows = order if sampler == "instance_balanced" else torch.arange(len(order))
        return Pass(images, order, self.augmentation, draws[rows])


def augmented_batches(
    images: LabeledImages, batch_size: int, augmentation: Augmentation, seed: int, *names: str | int
) -> Iterator[Batch]:
    """Yield all images in their order, augmented by draws from (seed, *names)."""
    draws = augmentation.draw(len(images), generator(seed, *names))
    one = Pass(images, torch.arange(len(images)), augmentation, draws)
    return (batch for (batch,) in read((one,), batch_size))


def clean_batches(images: LabeledImages, batch_size: int) -> Iterator[Batch]:
    """Yield all images in their order, as they are."""
    one = Pass(images, torch.arange(len(images)), None, torch.empty(len(images), 0))
    return (batch for (batch,) in read((one,), batch_size))
