"""CIFAR-10 as a source, on official files in miniature."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

import official_files
from longtail.data.cifar10 import Cifar10
from longtail.data.split import build_split

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "download": False,
    "profile": "step",
    "imbalance_factor": 10,
    "pareto_shape": None,
    "subset": "ldam",
    "seed": 0,
    "validation": {"source": "unused", "per_class": 3},
}


def test_indices_count_through_the_five_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = official_files.write_cifar(CIFAR10, tmp_path, monkeypatch, per_class=4)
    split = build_split(Cifar10.model_validate(GOOD | {"path": str(tmp_path)}), tmp_path / "assignment.csv")
    assert split.class_counts.tolist() == [20] * 5 + [2] * 5
    assert split.val.class_counts.tolist() == [0] * 5 + [3] * 5
    assert split.test.class_counts.tolist() == [4] * 10
    assert split.classes[3] == "class 3"
    batches = [pickle.loads((folder / f"data_batch_{number}").read_bytes()) for number in range(1, 6)]
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [label for batch in batches for label in batch["labels"]]
    for side in (split.train, split.val):
        assert isinstance(side.images, torch.Tensor)
        for image, label, name in zip(side.images, side.labels.tolist(), side.ids, strict=True):
            index = int(name.removeprefix("train/"))
            assert np.array_equal(image.numpy(), pixels[index])
            assert label == labels[index]
    assert not set(split.train.ids) & set(split.val.ids)
