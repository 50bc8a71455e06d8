"""scikit-learn's digits as a source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from longtail.data.digits import MEAN, STD, Digits
from longtail.data.split import build_split
from longtail.spec import InputError

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "test_per_class": 30,
    "profile": "exponential",
    "imbalance_factor": 36,
    "pareto_shape": None,
    "subset": "ldam",
    "seed": 0,
    "validation": {"source": "unused", "per_class": 20},
}


def test_the_default_tail(tmp_path: Path) -> None:
    split = build_split(Digits.model_validate(GOOD), tmp_path / "assignment.csv")
    assert split.class_counts.tolist() == [144, 96, 64, 43, 29, 19, 13, 8, 5, 4]
    assert split.test.class_counts.tolist() == [30] * 10
    assert split.val.class_counts[2:].tolist() == [20] * 8
    assert split.classes == tuple("0123456789")
    assert not (tmp_path / "assignment.csv").exists()


def test_images_are_those_of_their_ids_and_sides_share_none(tmp_path: Path) -> None:
    split = build_split(Digits.model_validate(GOOD), tmp_path / "assignment.csv")
    data, seen = load_digits(), set()
    for side in (split.train, split.val, split.test):
        assert isinstance(side.images, torch.Tensor)
        for image, label, name in zip(side.images, side.labels.tolist(), side.ids, strict=True):
            index = int(name.removeprefix("digits/"))
            assert label == data.target[index]
            assert image.shape == (1, 8, 8)
            assert (image[0].double() * 16 / 255).round().tolist() == data.images[index].tolist()
            seen.add(index)
    assert len(seen) == len(split.train) + len(split.val) + len(split.test)


def test_the_test_images_are_the_last_of_each_class_after_one_shuffle() -> None:
    pools = Digits.model_validate(GOOD).pools()
    assert pools.test is not None
    labels = load_digits().target.tolist()
    shuffled = np.random.RandomState(0).permutation(len(labels)).tolist()
    expected = {index for label in range(10) for index in [i for i in shuffled if labels[i] == label][-30:]}
    assert {int(name.removeprefix("digits/")) for name in pools.test.ids} == expected
    later = Digits.model_validate({**GOOD, "seed": 1}).pools()
    assert later.test is not None and later.test.ids == pools.test.ids  # the split's seed never moves a test image


def test_the_constants_are_those_of_the_train_pool() -> None:
    images = Digits.model_validate(GOOD).pools().train.images
    assert isinstance(images, torch.Tensor)
    pixels = images.double() / 255
    assert abs(pixels.mean().item() - MEAN) < 1e-4
    assert abs(pixels.std().item() - STD) < 1e-4


def test_a_test_set_that_takes_a_whole_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.test_per_class is 174, .*choose at most 173"):
        Digits.model_validate(GOOD | {"test_per_class": 174}).pools()
