"""A split on disk: read back whole, equal bytes for equal splits, found again elsewhere."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longtail.images.labeled import ImageFiles, LabeledImages, LongTailSplit
from longtail.images.split_files import load_split, save_split
from longtail.spec import InputError


def on_disk(split: LongTailSplit, root: Path) -> LongTailSplit:
    """Return the split with its images as files under root."""

    def listed(images: LabeledImages, side: str) -> LabeledImages:
        paths = tuple(f"{side}, 'é'/{number}.png" for number in range(len(images)))
        ids = [f"{hashlib.sha256(path.encode()).hexdigest()} {path}" for path in paths]
        return replace(images, images=ImageFiles(root, paths, 24), ids=ids)

    train, val, test = (listed(getattr(split, side), side) for side in ("train", "val", "test"))
    return replace(split, train=train, val=val, test=test)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_images_in_memory_come_back(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    save_split(tiny_split, tmp_path / "split")
    assert set(bytes_of(tmp_path / "split")) == {f"{s}.safetensors" for s in ("train", "val", "test")} | {
        "classes.json"
    }
    loaded = load_split(tmp_path / "split")
    assert replace(loaded, train=tiny_split.train, val=tiny_split.val, test=tiny_split.test) == tiny_split
    for side in ("train", "val", "test"):
        mine, its = getattr(loaded, side), getattr(tiny_split, side)
        assert torch.equal(mine.images, its.images)
        assert torch.equal(mine.labels, its.labels)
        assert list(mine.ids) == list(its.ids)
        assert mine.num_classes == its.num_classes


def test_images_on_disk_come_back(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    root = tmp_path / "far" / "away"
    root.mkdir(parents=True)
    split = on_disk(tiny_split, root)
    save_split(split, tmp_path / "split")
    assert set(bytes_of(tmp_path / "split")) == {"train.csv", "val.csv", "test.csv", "classes.json"}
    loaded = load_split(tmp_path / "split")
    for side in ("train", "val", "test"):
        mine, its = getattr(loaded, side), getattr(split, side)
        assert mine.images == its.images
        assert mine.labels.tolist() == its.labels.tolist()
        assert list(mine.ids) == list(its.ids)


def test_an_empty_side_comes_back(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    assert isinstance(tiny_split.val.images, torch.Tensor)
    empty = LabeledImages(tiny_split.val.images[:0], tiny_split.val.labels[:0], 5, ())
    save_split(replace(tiny_split, val=empty), tmp_path / "memory")
    save_split(on_disk(replace(tiny_split, val=empty), tmp_path), tmp_path / "disk")
    for folder in ("memory", "disk"):
        loaded = load_split(tmp_path / folder).val
        assert len(loaded) == len(loaded.images) == 0
        assert loaded.labels.dtype == torch.int64
        assert loaded.class_counts.tolist() == [0] * 5


def test_equal_splits_are_equal_bytes(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    for number, split in enumerate((tiny_split, on_disk(tiny_split, tmp_path))):
        for again in range(3):
            save_split(split, tmp_path / f"{number}{again}")
        first, *others = (bytes_of(tmp_path / f"{number}{again}") for again in range(3))
        assert all(other == first for other in others)


def test_classes_json_says_what_the_images_are(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    save_split(tiny_split, tmp_path)
    about = json.loads((tmp_path / "classes.json").read_text(encoding="utf-8"))
    assert about["classes"] == ["ant", "bee", "cat", "dog", "elk"]
    assert about["class_counts"] == {"train": [20, 12, 7, 3, 1], "val": [2] * 5, "test": [4] * 5}
    assert (about["image_size"], about["channels"], about["digest"], about["root"]) == (8, 3, "tiny", None)


@pytest.mark.parametrize(
    ("root", "written"),
    [
        ("repository/data/raw/mine", "data/raw/mine"),
        ("shared/mine", "$LONGTAIL_DATA/mine"),
        ("elsewhere", None),
        ("main/data/raw/mine", "data/raw/mine"),
    ],
)
def test_the_root_is_written_so_that_others_find_it(
    root: str, written: str | None, tiny_split: LongTailSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / root).mkdir(parents=True)
    (tmp_path / "repository").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    save_split(on_disk(tiny_split, tmp_path / root), Path("data/split"))
    about = json.loads(Path("data/split/classes.json").read_text(encoding="utf-8"))
    assert about["root"] == (written or (tmp_path / root).as_posix())
    images = load_split(Path("data/split")).train.images
    assert isinstance(images, ImageFiles)
    assert images.root.resolve() == tmp_path / root
    if written:
        assert not images.root.is_absolute() or "repository" not in root


def test_a_folder_that_is_linked_into_the_repository_stays_relative(
    tiny_split: LongTailSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    Path("mine").symlink_to(tmp_path / "big disk")
    save_split(on_disk(tiny_split, Path("mine")), Path("split"))
    assert json.loads(Path("split/classes.json").read_text(encoding="utf-8"))["root"] == "mine"


def test_missing_images_and_a_missing_split_are_said(
    tiny_split: LongTailSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="holds no split; run the split stage first"):
        load_split(tmp_path)
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "shared"))
    save_split(on_disk(tiny_split, tmp_path / "shared" / "mine"), tmp_path / "split")
    for value in (str(tmp_path / "other"), None):
        monkeypatch.setenv("LONGTAIL_DATA", value) if value else monkeypatch.delenv("LONGTAIL_DATA")
        with pytest.raises(InputError, match=r"\$LONGTAIL_DATA/mine, which is not here: .*set LONGTAIL_DATA"):
            load_split(tmp_path / "split")
