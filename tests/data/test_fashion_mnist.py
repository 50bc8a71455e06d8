"""FashionMNIST as a source: official files in miniature, and the real ones if they are there."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

import official_files
from longtail.data.fashion_mnist import MEAN, STD, FashionMnist
from longtail.data.split import build_split

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "download": False,
    "profile": "exponential",
    "imbalance_factor": 10,
    "pareto_shape": None,
    "subset": "first",
    "seed": None,
    "validation": {"source": "holdout", "per_class": 2},
}
REAL = Path(os.environ.get("LONGTAIL_DATA", "")) / "FashionMNIST" / "raw"


def test_a_split_of_the_official_format(tmp_path: Path) -> None:
    folder = official_files.write_mnist(FashionMNIST, tmp_path, per_class=20)
    source = FashionMnist.model_validate(GOOD | {"path": str(tmp_path)})
    split = build_split(source, tmp_path / "assignment.csv")
    counts = [int(20 * 0.1 ** (label / 9)) for label in range(10)]
    held = [0 if count < 5 else min(2, max(1, round(count / 10))) for count in counts]
    assert split.class_counts.tolist() == [count - out for count, out in zip(counts, held, strict=True)]
    assert split.val.class_counts.tolist() == held
    assert split.test.class_counts.tolist() == [20] * 10
    assert (split.mean, split.std) == ((MEAN,), (STD,))
    assert len(split.classes) == 10
    assert isinstance(split.train.images, torch.Tensor)
    pixels = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes()[16:], dtype=np.uint8).reshape(
        -1, 1, 28, 28
    )
    for image, name in zip(split.train.images, split.train.ids, strict=True):
        assert np.array_equal(image.numpy(), pixels[int(name.removeprefix("train/"))])


@pytest.mark.skipif(not REAL.is_dir(), reason="needs FashionMNIST under LONGTAIL_DATA")
def test_the_constants_are_those_of_the_training_pixels() -> None:
    images = FashionMnist.model_validate(GOOD).pools().train.images
    assert isinstance(images, torch.Tensor)
    pixels = images.float() / 255
    assert abs(pixels.mean().item() - MEAN) < 1e-4
    assert abs(pixels.std().item() - STD) < 1e-4
