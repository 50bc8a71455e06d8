"""Batches: every image once, equal bits whoever makes them, a function of seed and epoch."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longtail.images.decoding import decode
from longtail.images.labeled import ImageFiles, LabeledImages
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches, augmented_batches, clean_batches
from longtail.loading.reading import CHUNK_BYTES
from longtail.loading.sampling import Balanced, Sampler, epoch_indices, epoch_length
from longtail.seeding import generator
from longtail.spec import InputError
from photos import write_photos

STRONG = Augmentation(crop="pad", pad=2, flip=True, jitter=0.0, policy="autoaugment", cutout=4)
RESIZED = Augmentation(crop="resized", pad=0, flip=True, jitter=0.4, policy="none", cutout=0)
FORK = "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"  # Python 3.12 and 3.13, for torch's workers


def in_memory(count: int, channels: int = 3, side: int = 12, classes: int = 5) -> LabeledImages:
    shape = (count, channels, side, side)
    images = torch.randint(0, 256, shape, generator=generator(0, "images"), dtype=torch.uint8)
    labels = torch.arange(count) ** 2 % 97 % classes
    return LabeledImages(images, labels, classes, [str(i) for i in range(count)])


@pytest.fixture
def on_disk(tmp_path: Path) -> LabeledImages:
    write_photos(tmp_path, {"ant": 14, "bee": 6, "cat": 1})
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    labels = torch.tensor([["ant", "bee", "cat"].index(path.split("/")[0]) for path in paths])
    return LabeledImages(ImageFiles(tmp_path, tuple(paths), 16), labels, 3, paths)


def batches_of(images: LabeledImages, seed: int = 0, **changes: Any) -> ImageBatches:
    arguments: dict[str, Any] = {
        "samplers": ("instance_balanced",),
        "batch_size": 8,
        "augmentation": STRONG,
        "epochs": 5,
        **changes,
    }
    return ImageBatches(images, seed=seed, **arguments)


def joined(batches: ImageBatches, epoch: int, position: int = 0) -> tuple[Tensor, Tensor]:
    parts = [step[position] for step in batches.epoch(epoch)]
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


def equal(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("count, sizes", [(20, [8, 8, 4]), (16, [8, 8]), (3, [3]), (0, [])])
def test_all_images_are_yielded_the_last_batch_being_smaller(count: int, sizes: list[int]) -> None:
    images = in_memory(count)
    clean = list(clean_batches(images, 8))
    assert [len(batch.labels) for batch in clean] == sizes
    assert all(batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64 for batch in clean)
    if count:
        assert torch.equal(torch.cat([batch.images for batch in clean]), images.images)  # type: ignore[arg-type]
        assert torch.equal(torch.cat([batch.labels for batch in clean]), images.labels)
        assert [len(step[0].labels) for step in batches_of(images).epoch(0)] == sizes
        assert [len(batch.labels) for batch in augmented_batches(images, 8, STRONG, 0, "view", 1)] == sizes


def test_an_epoch_is_the_order_and_the_draws_of_its_names() -> None:
    """Also across chunks: this set is larger than one, and results are those of one call over the whole epoch."""
    images = in_memory(CHUNK_BYTES // (3 * 32 * 32) + 300, side=32)
    assert isinstance(images.images, Tensor)
    n = len(images)
    order = torch.randperm(n, generator=generator(7, "order", 0, 3))
    draws = STRONG.draw(n, generator(7, "augment", 0, 3))
    expected = STRONG.apply(images.images, draws)[order], images.labels[order]  # a row of draws per image
    assert equal(joined(batches_of(images, 7, batch_size=64), 3), expected)
    assert equal(joined(batches_of(images, 7, batch_size=1000), 3), expected)


def test_an_image_drawn_twice_is_augmented_twice() -> None:
    images = in_memory(60, classes=3)
    assert isinstance(images.images, Tensor)
    chosen = generator(7, "order", 0, 1)
    order = epoch_indices("class_balanced", images.labels, images.class_counts, 60, chosen, 0.2)
    draws = STRONG.draw(60, generator(7, "augment", 0, 1))
    expected = STRONG.apply(images.images[order], draws), images.labels[order]  # a row of draws per place
    assert equal(joined(batches_of(images, 7, samplers=("class_balanced",)), 1), expected)


def test_a_balanced_epoch_goes_on_until_the_largest_class_was_shown() -> None:
    images, whole = in_memory(50), Balanced(name="class_aware", epoch="balanced")
    length = epoch_length(whole, images.class_counts)
    assert length > 50
    batches = batches_of(images, 7, samplers=(whole,))
    order = epoch_indices(whole, images.labels, images.class_counts, length, generator(7, "order", 0, 1), 0.2)
    draws = STRONG.draw(length, generator(7, "augment", 0, 1))
    assert isinstance(images.images, Tensor)
    assert equal(joined(batches, 1), (STRONG.apply(images.images[order], draws), images.labels[order]))


def test_a_batch_for_each_sampler() -> None:
    images = in_memory(50)
    samplers: tuple[Sampler, ...] = ("instance_balanced", "class_aware", "instance_balanced")
    steps = list(batches_of(images, samplers=samplers).epoch(2))
    assert len(steps) == 7 and all(len(step) == 3 for step in steps)
    assert all(isinstance(batch, Batch) for step in steps for batch in step)
    assert all(len({len(batch.labels) for batch in step}) == 1 for step in steps)
    both = batches_of(images, samplers=samplers)
    assert equal(joined(both, 2, 0), joined(batches_of(images), 2))
    assert not equal(joined(both, 2, 0), joined(both, 2, 2))  # the position names the stream, not the sampler


def test_seeds_and_epochs_differ_and_repeat() -> None:
    images = in_memory(40)
    batches = batches_of(images)
    through = [joined(batches, epoch) for epoch in range(4)]
    assert equal(joined(batches_of(images), 3), through[3])  # as after a restart
    assert equal(joined(batches, 1), through[1])
    assert not any(equal(through[0], other) for other in through[1:])
    assert not equal(joined(batches_of(images, seed=1), 0), through[0])
    assert batches.state_dict() == {}
    batches.load_state_dict({})


def test_images_of_any_layout_in_memory_are_left_as_they_are() -> None:
    plain = in_memory(30)
    assert isinstance(plain.images, Tensor)
    before = plain.images.clone()
    last = plain.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    permuted = LabeledImages(last, plain.labels, 5, plain.ids)
    assert equal(joined(batches_of(plain), 0), joined(batches_of(permuted), 0))
    assert torch.equal(plain.images, before) and torch.equal(last, before)


def test_an_epoch_leaves_the_global_generator_alone(on_disk: LabeledImages) -> None:
    for images in (in_memory(20), on_disk):
        before = torch.random.get_rng_state()
        list(batches_of(images).epoch(0))
        assert torch.equal(torch.random.get_rng_state(), before)


def test_an_abandoned_epoch_ends_its_thread() -> None:
    threads = threading.active_count()
    epoch = iter(batches_of(in_memory(40)).epoch(0))
    next(epoch)
    assert threading.active_count() == threads + 1
    del epoch
    assert threading.active_count() == threads


def test_augmented_batches_are_in_order_and_named() -> None:
    images = in_memory(30)
    assert isinstance(images.images, Tensor)
    first = torch.cat([batch.images for batch in augmented_batches(images, 7, STRONG, 3, "view", 1)])
    assert torch.equal(first, STRONG.apply(images.images, STRONG.draw(30, generator(3, "view", 1))))
    other = torch.cat([batch.images for batch in augmented_batches(images, 30, STRONG, 3, "view", 2)])
    assert not torch.equal(first, other)


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("augmentation", [STRONG, RESIZED])
def test_files_give_equal_bits_with_and_without_workers(
    on_disk: LabeledImages, augmentation: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(on_disk, augmentation=augmentation, samplers=("instance_balanced", "class_balanced"))
    results = []
    for workers in ("0", "2"):
        monkeypatch.setenv("LONGTAIL_WORKERS", workers)
        results.append([joined(batches, epoch, position) for epoch in (0, 1) for position in (0, 1)])
    assert all(equal(a, b) for a, b in zip(*results, strict=True))
    assert not equal(results[0][0], results[0][2])


def test_files_are_augmented_like_the_same_images_in_memory(on_disk: LabeledImages) -> None:
    clean = torch.cat([batch.images for batch in clean_batches(on_disk, 4)])
    files = on_disk.images
    assert isinstance(files, ImageFiles)
    assert torch.equal(clean, torch.stack([decode(files.root / path, 16, None) for path in files.paths]))
    memory = LabeledImages(clean, on_disk.labels, 3, on_disk.ids)
    assert equal(joined(batches_of(on_disk), 1), joined(batches_of(memory), 1))


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_unreadable_file_is_named(on_disk: LabeledImages, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_WORKERS", workers)
    files = on_disk.images
    assert isinstance(files, ImageFiles)
    broken = files.root / files.paths[11]
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(InputError, match=f"^data.path: {broken} is no readable image .*remove it.$"):
        list(batches_of(on_disk).epoch(0))
