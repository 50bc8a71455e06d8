"""CIFAR-100: the published subset, re-made as the LDAM code makes it, from the real files."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

import official_files
from longtail.data.cifar100 import Cifar100
from longtail.data.split import build_split

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "download": False,
    "profile": "exponential",
    "imbalance_factor": 100,
    "pareto_shape": None,
    "subset": "ldam",
    "seed": 0,
    "validation": {"source": "unused", "per_class": 20},
}
REAL = Path(os.environ.get("LONGTAIL_DATA", "")) / "cifar-100-python"
needs_cifar = pytest.mark.skipif(not REAL.is_dir(), reason="needs CIFAR-100 under LONGTAIL_DATA")


def ldam_indices(labels: list[int]) -> tuple[list[int], list[int]]:
    """Choose training and left-over images in plain loops: seed once, then shuffle class by class."""
    np.random.seed(0)
    kept: list[int] = []
    val: list[int] = []
    for k in range(100):
        n_k = int(500.0 * (0.01 ** (k / 99.0)))
        of_class = np.array([i for i in range(len(labels)) if labels[i] == k])
        np.random.shuffle(of_class)
        kept.extend(of_class[:n_k].tolist())
        val.extend(of_class[n_k : n_k + 20].tolist())
    return kept, val


@needs_cifar
def test_the_split_is_that_of_the_ldam_code(tmp_path: Path) -> None:
    split = build_split(Cifar100.model_validate(GOOD), tmp_path / "assignment.csv")
    with (REAL / "train").open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    kept, val = ldam_indices(content["fine_labels"])
    assert len(split.train) == len(kept) == 10_847
    assert split.train.ids == tuple(f"train/{i}" for i in kept)
    assert split.val.ids == tuple(f"train/{i}" for i in val)
    assert split.digest == hashlib.sha256(np.asarray(kept, dtype="<i8").tobytes()).hexdigest()
    assert split.train.labels.tolist() == [content["fine_labels"][i] for i in kept]
    assert isinstance(split.train.images, torch.Tensor)
    assert np.array_equal(split.train.images.numpy(), content["data"][kept].reshape(-1, 3, 32, 32))
    assert split.test.class_counts.tolist() == [100] * 100
    assert split.classes[0] == "apple"
    assert split.mean == (0.4914, 0.4822, 0.4465)


def test_the_seed_of_the_split_chooses_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_cifar(CIFAR100, tmp_path, monkeypatch, per_class=10)
    change = {"path": str(tmp_path), "imbalance_factor": 5, "validation": {"source": "unused", "per_class": 2}}
    splits = [
        build_split(Cifar100.model_validate(GOOD | change | {"seed": seed}), tmp_path / "assignment.csv")
        for seed in (0, 0, 1)
    ]
    assert splits[0].digest == splits[1].digest != splits[2].digest
    assert splits[0].class_counts.tolist() == splits[2].class_counts.tolist()
