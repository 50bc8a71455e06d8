"""The official CIFAR and MNIST files, read and downloaded by torchvision, with errors that say what to do."""

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.data.files import find, places
from longtail.data.pools import Pools, index_key, official
from longtail.spec import InputError

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the field uses one pair for both CIFARs
BROKEN = (OSError, EOFError, RuntimeError, ValueError, AssertionError, KeyError, IndexError, pickle.UnpicklingError)

Dataset = Callable[..., Any]  # a class of torchvision.datasets


def cifar_pools(dataset: Any, path: str, download: bool) -> Pools:
    """Read CIFAR-10 or CIFAR-100; an index counts through the training files as torchvision joins them."""
    listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    train, test = _open(dataset, dataset.base_folder, dict(listed), path, download)
    parts = {"train": train, "test": test}
    images = {part: torch.from_numpy(data.data).permute(0, 3, 1, 2) for part, data in parts.items()}
    return _official_pools(parts, images, tuple(train.classes), CIFAR_MEAN, CIFAR_STD)


def mnist_pools(dataset: Any, path: str, download: bool, mean: float, std: float) -> Pools:
    """Read MNIST or Fashion-MNIST."""
    files = {Path(name).stem: None for name, _ in dataset.resources}
    train, test = _open(dataset, f"{dataset.__name__}/raw", files, path, download)
    parts = {"train": train, "test": test}
    images = {part: data.data[:, None] for part, data in parts.items()}
    classes = tuple(name.removeprefix(f"{label} - ") for label, name in enumerate(train.classes))
    return _official_pools(parts, images, classes, (mean,), (std,))


def _official_pools(
    parts: Mapping[str, Any],
    images: Mapping[str, torch.Tensor],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Pools:
    train, test = (official(images[part], parts[part].targets, len(classes), part) for part in ("train", "test"))
    return Pools(train, None, test, classes, mean, std, [index_key(i) for i in range(len(train))], None)


def _open(dataset: Dataset, folder: str, files: Mapping[str, str | None], path: str, download: bool) -> tuple[Any, Any]:
    """Return torchvision's train and test parts.

    Args:
        folder: where torchvision wants the files, relative to its root.
        files: name -> md5, or None where torchvision has none.

    Raises:
        InputError: the files are missing and may not or cannot be downloaded, or are damaged.
    """
    found = find(path, folder)
    if found is None:
        if not download:
            raise InputError(
                f"data.path: no {folder} in {places(path)}. Put the files into one of them, or set data.download: true."
            )
        # under $DVC_ROOT if that is set: what a temporary copy of the repository fetches should outlive it
        found = _download(dataset, folder, Path(os.environ.get("DVC_ROOT", "")) / Path(path).expanduser() / folder)
    root = Path(str(found).removesuffix(folder))
    try:
        return dataset(root, train=True, download=False), dataset(root, train=False, download=False)
    except BROKEN as error:
        damage = find_damage(found, files) or f"it cannot be read ({error})"
        raise InputError(f"data.path: {found} is damaged: {damage}. Remove that folder and fetch it again.") from None


def _download(dataset: Dataset, folder: str, target: Path) -> Path:
    """Fetch into a scratch folder first, so that a broken connection leaves nothing that looks like data."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
            dataset(scratch, download=True)
            (Path(scratch) / folder).replace(target)
    except BROKEN as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"data.download is true, but {folder} could not be fetched ({reason}). "
            "Put the files under data.path or LONGTAIL_DATA by hand."
        ) from None
    return target


def find_damage(folder: Path, files: Mapping[str, str | None]) -> str | None:
    """Say which file is missing, truncated or altered; None if all are as they should be."""
    from torchvision.datasets.utils import check_integrity  # here, since importing torchvision takes a second

    for name, md5 in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if not (check_integrity(file, md5) if md5 else _idx_is_whole(file)):
            return f"{name} is truncated or altered ({file.stat().st_size:,} bytes)"
    return None


def _idx_is_whole(file: Path) -> bool:
    """Compare the size of an IDX file with what its header announces: dimensions in byte 3, then each as 4 bytes."""
    head = file.read_bytes()[:16]
    if len(head) < 4 or len(head) < 4 + 4 * head[3]:
        return False
    sizes = np.frombuffer(head, dtype=">u4", offset=4, count=head[3])
    return file.stat().st_size == 4 + 4 * head[3] + int(np.prod(sizes, dtype=np.int64))
