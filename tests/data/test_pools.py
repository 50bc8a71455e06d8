"""Taking images out of a pool, in memory and on disk alike."""

from pathlib import Path

import torch

from longtail.data.pools import index_key, official, take
from longtail.images.labeled import ImageFiles, LabeledImages


def test_taking_keeps_images_labels_and_ids_together() -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    in_memory = official(images, [0, 1, 2, 1, 0], 3, "train")
    files = ImageFiles(Path("root"), tuple("abcde"), 8)
    on_disk = LabeledImages(files, in_memory.labels, 3, in_memory.ids)
    chosen = torch.tensor([3, 0])
    for part in (take(in_memory, chosen), take(on_disk, chosen)):
        assert part.labels.tolist() == [1, 0]
        assert list(part.ids) == ["train/3", "train/0"]
        assert part.class_counts.tolist() == [1, 1, 0]
    taken, named = take(in_memory, chosen).images, take(on_disk, chosen).images
    assert isinstance(taken, torch.Tensor) and isinstance(named, ImageFiles)
    assert taken[:, 0, 0, 0].tolist() == [3, 0]
    assert taken.is_contiguous()
    assert named == ImageFiles(Path("root"), ("d", "a"), 8)


def test_taking_nothing_keeps_the_shape() -> None:
    nothing = take(
        official(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1], 2, "x"), torch.tensor([], dtype=torch.int64)
    )
    assert isinstance(nothing.images, torch.Tensor)
    assert nothing.images.shape == (0, 3, 4, 4)
    assert nothing.class_counts.tolist() == [0, 0]


def test_a_key_is_a_little_endian_number_of_eight_bytes() -> None:
    assert index_key(258) == bytes([2, 1, 0, 0, 0, 0, 0, 0])
