"""How a pass over images becomes batches: chunks from memory, or files decoded by worker processes.

Where images are in memory, one thread augments the next few thousand while the trainer uses the last; where they are
files, workers decode and augment whole batches. Neither decides a single bit.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from longtail.distributed import count, share_of, share_size
from longtail.images.decoding import decode
from longtail.images.labeled import ImageFiles, LabeledImages
from longtail.loading.augmentation import Augmentation
from longtail.spec import InputError

CHUNK_BYTES = 4 * 2**20  # augmented at a time: large calls, whose intermediate results still fit the caches
TINY = 1024  # fewer files than this are decoded before workers would have started
MOST_WORKERS = 16  # further ones fill shared memory with batches that no step waits for
PREFETCH = 3  # batches per worker


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8 and labels (B,) int64; the trainer divides by 255 on the device."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Pass:
    """One pass over images.

    Args:
        order: (L,) indices of images.
        augmentation: None for clean images.
        draws: (L, U), one row per place in the order.
    """

    images: LabeledImages
    order: Tensor
    augmentation: Augmentation | None
    draws: Tensor

    def part(self, start: int, stop: int) -> Batch:
        """Return the images at places [start, stop) of the order."""
        chosen, draws = self.order[start:stop], self.draws[start:stop]
        source, labels = self.images.images, self.images.labels[chosen]
        if isinstance(source, ImageFiles):
            return Batch(self._from_files(source, chosen, draws), labels)
        pixels = source[chosen].contiguous()
        return Batch(self.augmentation.apply(pixels, draws) if self.augmentation else pixels, labels)

    def _from_files(self, files: ImageFiles, chosen: Tensor, draws: Tensor) -> Tensor:
        if self.augmentation is None:
            return _decode(files, chosen, [None] * len(chosen))
        if self.augmentation.crop == "resized":  # cut out of the original, for its detail
            crops = list(self.augmentation.split(draws)["crop"])
            return self.augmentation.apply_after_crop(_decode(files, chosen, crops), draws)
        return self.augmentation.apply(_decode(files, chosen, [None] * len(chosen)), draws)


def _decode(files: ImageFiles, chosen: Tensor, crops: Sequence[Tensor | None]) -> Tensor:
    paths = [files.root / files.paths[index] for index in chosen.tolist()]
    return torch.stack([decode(path, files.size, crop) for path, crop in zip(paths, crops, strict=True)])


def read(passes: tuple[Pass, ...], batch_size: int) -> Iterator[tuple[Batch, ...]]:
    """Yield the steps of passes over the same images: one batch of each pass, the last possibly smaller.

    Raises:
        InputError: a file cannot be decoded.
    """
    source = passes[0].images.images
    if isinstance(source, ImageFiles):
        return _with_workers(passes, batch_size)
    batch_bytes = batch_size * source.shape[1:].numel()
    return _one_chunk_ahead(passes, batch_size, batch_size * max(1, CHUNK_BYTES // batch_bytes))


def read_share(passes: tuple[Pass, ...], batch_size: int) -> Iterator[tuple[Batch, ...]]:
    """Yield this process's rows of the steps that `read` yields where there is one process.

    All processes have the same number of steps: where the last batch has fewer rows than there are processes, some
    get a batch of none.
    """
    if count() == 1:
        return read(passes, batch_size)
    length = len(passes[0].order)
    mine = share_of(length, batch_size)
    shares = tuple(replace(one, order=one.order[mine], draws=one.draws[mine]) for one in passes)
    none = Batch(torch.empty(0), torch.empty(0, dtype=torch.int64))
    padded = chain(read(shares, share_size(batch_size)), repeat((none,) * len(passes)))
    return islice(padded, -(-length // batch_size))


def _one_chunk_ahead(passes: tuple[Pass, ...], batch_size: int, chunk: int) -> Iterator[tuple[Batch, ...]]:
    """Cut batches out of chunks; a thread makes the next chunk while the trainer uses this one."""
    length = len(passes[0].order)

    def make(start: int) -> tuple[Batch, ...]:
        return tuple(one.part(start, start + chunk) for one in passes)

    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(make, start) for start in range(0, length, chunk)[:1]]
        for start in range(0, length, chunk):
            parts = ahead.pop().result()
            ahead = [thread.submit(make, later) for later in range(start + chunk, length, chunk)[:1]]
            for first in range(0, len(parts[0].labels), batch_size):
                rows = slice(first, first + batch_size)
                yield tuple(Batch(part.images[rows], part.labels[rows]) for part in parts)


class _Steps(Dataset[tuple[Batch, ...] | InputError]):
    """Whole steps as the items of a data set, so that a worker decodes and augments a batch at a time."""

    def __init__(self, passes: tuple[Pass, ...], batch_size: int) -> None:
        self.passes, self.batch_size = passes, batch_size

    def __len__(self) -> int:
        return -(-len(self.passes[0].order) // self.batch_size)

    def __getitem__(self, step: int) -> tuple[Batch, ...] | InputError:
        start = step * self.batch_size
        try:
            return tuple(one.part(start, start + self.batch_size) for one in self.passes)
        except InputError as error:
            return error  # raised in a worker, it would arrive wrapped in the worker's traceback


def _with_workers(passes: tuple[Pass, ...], batch_size: int) -> Iterator[tuple[Batch, ...]]:
    workers = worker_count(len(passes[0].order))
    own = torch.Generator()  # the loader seeds its workers from it, although they draw nothing: not from the global one
    steps = _Steps(passes, batch_size)
    prefetch = PREFETCH if workers else None
    for batches in DataLoader(steps, batch_size=None, num_workers=workers, prefetch_factor=prefetch, generator=own):
        if isinstance(batches, InputError):
            raise batches
        yield batches


def worker_count(images: int) -> int:
    """Return how many processes decode: LONGTAIL_WORKERS if it is set, else one per core, none for few images.

    Where several devices train, their processes share the cores.

    Raises:
        InputError: LONGTAIL_WORKERS is no count.
    """
    wanted = os.environ.get("LONGTAIL_WORKERS", "")
    if wanted:
        if not wanted.isdecimal():
            raise InputError(f"LONGTAIL_WORKERS is {wanted!r}; set it to a number of processes or unset it.")
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if images < TINY else min(max(cores // count(), 1), MOST_WORKERS)
