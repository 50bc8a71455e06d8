"""Where files are looked for, and reading them in parallel."""

import hashlib
from pathlib import Path

import pytest
import torch

import photos
from longtail.data.files import candidates, check_images, find, hash_files, read_images
from longtail.images.decoding import decode
from longtail.images.labeled import ImageFiles
from longtail.spec import InputError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "shared"))
    monkeypatch.delenv("DVC_ROOT", raising=False)


def photo_files(folder: Path, count: int) -> ImageFiles:
    photos.write_photos(folder, {"ant": count})
    return ImageFiles(folder, tuple(sorted(f"ant/{file.name}" for file in (folder / "ant").iterdir())), 16)


def test_data_path_comes_first_then_the_shared_folder_then_data_raw(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    assert candidates("mine", "set") == [Path("mine/set"), shared / "set", Path("data/raw/set")]
    assert candidates("mine") == [Path("mine"), shared / "mine", Path("data/raw/mine")]
    assert candidates(str(tmp_path / "x")) == [tmp_path / "x"]
    for place in reversed(candidates("mine", "set")):
        place.mkdir(parents=True)
        assert find("mine", "set") == place


def test_a_temporary_copy_finds_what_lies_in_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    (tmp_path / "repository" / "data" / "raw" / "mine").mkdir(parents=True)
    assert find("data/raw/mine") == tmp_path / "repository" / "data" / "raw" / "mine"
    (tmp_path / "data" / "raw" / "mine").mkdir(parents=True)
    assert find("data/raw/mine") == Path("data/raw/mine")


def test_what_is_nowhere_is_not_found() -> None:
    assert find("mine") is None


def test_images_are_read_in_their_order(tmp_path: Path) -> None:
    files = photo_files(tmp_path / "mine", 7)
    images = read_images(files)
    assert images.shape == (7, 3, 16, 16)
    for image, path in zip(images, files.paths, strict=True):
        assert torch.equal(image, decode(files.root / path, 16, None))
    hashes = [hashlib.sha256((files.root / path).read_bytes()).hexdigest() for path in files.paths]
    assert hash_files(files.root, files.paths) == hashes


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_broken_image_is_named(keep: int, tmp_path: Path) -> None:
    files = photo_files(tmp_path / "mine", 7)
    broken = files.root / files.paths[4]
    broken.write_bytes(broken.read_bytes()[:keep])
    for work in (read_images, check_images):
        with pytest.raises(InputError) as caught:
            work(files)
        assert str(broken) in str(caught.value)
        assert "replace the file or remove it" in str(caught.value)


def test_a_file_that_left_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        hash_files(tmp_path, ["gone.png"])
