"""Missing, damaged and downloaded official files."""

from pathlib import Path

import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

import official_files
from longtail.data.torchvision_sets import cifar_pools, find_damage, mnist_pools
from longtail.spec import InputError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def test_missing_files_name_every_place_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        cifar_pools(CIFAR10, "my/data", download=False)
    message = str(caught.value)
    for part in ("data.path", "my/data", "LONGTAIL_DATA (not set)", "data/raw", "data.download: true"):
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["data.path", "LONGTAIL_DATA", "data/raw", "DVC_ROOT"])
def test_files_are_found_in_each_place(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = {"data.path": "mine", "LONGTAIL_DATA": "shared", "data/raw": "data/raw", "DVC_ROOT": "repository/mine"}[
        place
    ]
    official_files.write_mnist(MNIST, tmp_path / root, per_class=2)
    if place in ("LONGTAIL_DATA", "DVC_ROOT"):
        monkeypatch.setenv(place, str(tmp_path / root.removesuffix("/mine")))
    assert len(mnist_pools(MNIST, "mine", False, 0.1, 0.3).train) == 20


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_truncated_cifar_file_is_told_from_a_missing_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = official_files.write_cifar(CIFAR10, tmp_path, monkeypatch, per_class=1) / name
    file.write_bytes(file.read_bytes()[:-100])
    for download in (False, True):
        with pytest.raises(InputError, match=rf"data\.path: .*cifar-10-batches-py is damaged: {name} is truncated"):
            cifar_pools(CIFAR10, str(tmp_path), download)
    file.unlink()
    with pytest.raises(InputError, match=rf"damaged: {name} is missing.*Remove that folder"):
        cifar_pools(CIFAR10, str(tmp_path), False)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 7, -1])
def test_a_truncated_mnist_file_is_refused(name: str, keep: int, tmp_path: Path) -> None:
    file = official_files.write_mnist(MNIST, tmp_path, per_class=1) / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"damaged: {name} is truncated"):
        mnist_pools(MNIST, str(tmp_path), False, 0.1, 0.3)


def test_whole_files_have_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = official_files.write_cifar(CIFAR10, tmp_path, monkeypatch, per_class=1)
    assert find_damage(folder, dict(CIFAR10.train_list)) is None
    assert find_damage(official_files.write_mnist(MNIST, tmp_path, 1), {"t10k-images-idx3-ubyte": None}) is None


def test_a_download_lands_in_data_path_and_equals_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = official_files.write_mnist(MNIST, tmp_path / "origin", per_class=3)
    with official_files.serve_mnist(MNIST, folder, monkeypatch):
        fetched = mnist_pools(MNIST, "mine", True, 0.1, 0.3)
    original = mnist_pools(MNIST, "origin", False, 0.1, 0.3)
    assert isinstance(fetched.train.images, torch.Tensor) and isinstance(original.train.images, torch.Tensor)
    assert torch.equal(fetched.train.images, original.train.images)
    assert [entry.name for entry in (tmp_path / "mine" / "MNIST").iterdir()] == ["raw"]


def test_a_download_outlives_a_temporary_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = official_files.write_mnist(MNIST, tmp_path / "origin", per_class=1)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    with official_files.serve_mnist(MNIST, folder, monkeypatch):
        mnist_pools(MNIST, "data/raw", True, 0.1, 0.3)
    assert (tmp_path / "repository" / "data" / "raw" / "MNIST" / "raw").is_dir()
    assert not list((tmp_path / "copy").iterdir())


def test_a_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(InputError, match=r"data\.download is true, but cifar-10-batches-py could not be fetched"):
        cifar_pools(CIFAR10, "mine", download=True)
    assert not list((tmp_path / "mine").iterdir())


def test_a_data_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"data\.download is true, but MNIST/raw could not be fetched"):
        mnist_pools(MNIST, "file/data", True, 0.1, 0.3)
