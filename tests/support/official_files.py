"""CIFAR and MNIST files in miniature, in the official formats, with torchvision told their checksums."""

import gzip
import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from torchvision import datasets


def write_cifar(dataset: Any, root: Path, monkeypatch: pytest.MonkeyPatch, per_class: int) -> Path:
    """Write every file of CIFAR-10 or CIFAR-100, with `per_class` images of each class per training batch."""
    folder = root / str(dataset.base_folder)
    folder.mkdir(parents=True)
    fine = dataset is datasets.CIFAR100
    names = [f"class {label}" for label in range(100 if fine else 10)]
    draws = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch() -> dict[str, Any]:
        labels = list(range(len(names))) * per_class
        pixels = draws.integers(0, 256, size=(len(labels), 3072), dtype=np.uint8)
        return {"data": pixels, "fine_labels" if fine else "labels": labels}

    for part in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, part, [[name, write(name, batch())] for name, _ in getattr(dataset, part)])
    meta = dataset.meta | {"md5": write(dataset.meta["filename"], {dataset.meta["key"]: names})}
    monkeypatch.setattr(dataset, "meta", meta)
    return folder


def write_mnist(dataset: Any, root: Path, per_class: int) -> Path:
    """Write the four files of MNIST or Fashion-MNIST, with `per_class` images of each class in both parts."""
    folder = root / str(dataset.__name__) / "raw"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    for part in ("train", "t10k"):
        images = draws.integers(0, 256, size=(len(labels), 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """Encode uint8 numbers in the format of LeCun's files."""
    return bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, dtype=">u4").tobytes() + array.tobytes()


@contextmanager
def serve_mnist(dataset: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torchvision fetch the files of `folder` from a web server on this machine."""
    resources, site = [], folder / "site"
    site.mkdir()
    for name, _ in dataset.resources:
        data = gzip.compress((folder / name.removesuffix(".gz")).read_bytes(), mtime=0)
        (site / name).write_bytes(data)
        resources.append((name, hashlib.md5(data).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site)))
    monkeypatch.setattr(dataset, "resources", resources)
    monkeypatch.setattr(dataset, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Leave the test's output alone."""
