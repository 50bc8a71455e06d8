"""A folder per class, from the first day to the next."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import photos
from longtail.data.assignment import read_assignment
from longtail.data.image_folder import ImageFolder
from longtail.data.split import build_split
from longtail.images.decoding import decode
from longtail.images.labeled import ImageFiles, LongTailSplit
from longtail.spec import InputError

GOOD: dict[str, Any] = {"path": "data/raw/mine", **photos.OWN}
ROOT, RECORD = Path("data/raw/mine"), Path("data/assignment.csv")
OFFICIAL = {"test_per_class": None, "validation": {"source": "official", "per_class": 5}}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def build(**change: Any) -> LongTailSplit:
    return build_split(ImageFolder.model_validate(GOOD | change), RECORD)


def sides_of(split: LongTailSplit) -> dict[str, str]:
    return {name: side for side in ("train", "val", "test") for name in getattr(split, side).ids}


def test_own_images_get_a_test_set_and_keep_their_sides_the_next_day() -> None:
    photos.write_photos(ROOT, photos.COUNTS)
    first = build()
    assert first.classes == ("ant", "bee", "cat", "dog", "elk")
    assert first.test.class_counts.tolist() == [10, 10, 6, 1, 0]
    assert first.val.class_counts.tolist() == [5, 5, 2, 1, 0]
    assert first.class_counts.tolist() == [185, 65, 22, 6, 1]
    before = sides_of(first)
    assert len(before) == sum(photos.COUNTS.values())

    photos.write_photos(ROOT, {"ant": 2, "bee": 2, "cat": 2, "dog": 2, "elk": 2}, first=1000)
    second = build()
    after = sides_of(second)
    assert len(after) == len(before) + 10
    assert {name: after[name] for name in before} == before
    assert second.digest != first.digest
    assert {name.split(" ")[0]: side for name, side in after.items()} == read_assignment(RECORD)


def test_the_pixels_are_those_of_the_file() -> None:
    photos.write_photos(ROOT, photos.FEW)
    split = build()
    for side in (split.train, split.val, split.test):
        assert isinstance(side.images, torch.Tensor)
        for image, label, name in zip(side.images, side.labels.tolist(), side.ids, strict=True):
            path = name.split(" ", 1)[1]
            assert path.split("/")[0] == split.classes[label]
            assert torch.equal(image, decode(ROOT / path, 16, None))


def test_names_and_dates_decide_nothing() -> None:
    photos.write_photos(ROOT, photos.FEW)
    first = build()
    for number, file in enumerate(sorted(ROOT.glob("*/*"), reverse=True)):
        file.rename(file.with_name(f"renamed {number}{file.suffix}"))
    RECORD.unlink()
    second = build()
    assert second.digest == first.digest
    assert torch.equal(torch.as_tensor(second.test.images), torch.as_tensor(first.test.images))


def test_images_that_left_keep_their_row_and_their_side() -> None:
    photos.write_photos(ROOT, photos.FEW)
    first = sides_of(build())
    shutil.move(ROOT / "ant", "away")
    photos.write_photos(ROOT, {"ant": 3}, first=500)
    build()
    shutil.rmtree(ROOT / "ant")
    shutil.move("away", ROOT / "ant")
    assert sides_of(build()) == first
    assert len(read_assignment(RECORD)) == sum(photos.FEW.values()) + 3


def test_too_many_for_memory_stay_on_disk() -> None:
    photos.write_photos(ROOT, photos.FEW)
    in_memory = build(memory_gigabytes=18 * 3 * 16 * 16 / 1e9)
    on_disk = build(memory_gigabytes=(18 * 3 * 16 * 16 - 1) / 1e9)
    assert isinstance(in_memory.train.images, torch.Tensor)
    for side in ("train", "val", "test"):
        mine, files = getattr(on_disk, side), getattr(on_disk, side).images
        assert isinstance(files, ImageFiles)
        assert files.root == ROOT
        assert list(mine.ids) == list(getattr(in_memory, side).ids)
    assert on_disk.digest == in_memory.digest


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_a_truncated_image_is_named_and_nothing_is_recorded(memory: float) -> None:
    photos.write_photos(ROOT, photos.FEW)
    broken = ROOT / "bee" / "0.png"
    broken.write_bytes(broken.read_bytes()[:120])
    with pytest.raises(InputError, match=r"bee/0\.png is no readable image"):
        build(memory_gigabytes=memory)
    assert not RECORD.exists()


def test_copies_share_a_side() -> None:
    photos.write_photos(ROOT, {"ant": 30, "bee": 30})
    for file in sorted((ROOT / "ant").iterdir()):
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    sides: dict[str, set[str]] = {}
    for name, side in sides_of(build(test_per_class=1000)).items():
        sides.setdefault(name.split(" ")[0], set()).add(side)
    assert len(sides) == 60
    assert all(len(its_sides) == 1 for its_sides in sides.values())


def test_one_image_under_two_classes_is_refused() -> None:
    photos.write_photos(ROOT, photos.FEW)
    shutil.copy(ROOT / "ant" / "0.png", ROOT / "bee" / "other.png")
    with pytest.raises(InputError, match=r"ant/0\.png and bee/other\.png are the same image under two classes"):
        build()


def test_a_profile_cuts_the_images_that_train() -> None:
    photos.write_photos(ROOT, {"ant": 40, "bee": 50, "cat": 60})
    split = build(profile="exponential", imbalance_factor=4, subset="ldam", seed=0)
    n_max = 40 - 8 - 3  # less test and validation
    assert split.class_counts.tolist() == [n_max, n_max // 2, n_max // 4]
    assert split.test.class_counts.tolist() == [8, 10, 10]


def test_parts_that_come_with_the_data_are_used() -> None:
    for number, part in enumerate(("train", "val", "test")):
        photos.write_photos(ROOT / part, photos.FEW, first=100 * number)
    split = build(**OFFICIAL)
    assert split.class_counts.tolist() == [12, 6]
    assert split.val.class_counts.tolist() == [5, 5]
    assert split.test.class_counts.tolist() == [12, 6]
    assert all(name.split(" ", 1)[1].startswith("test/") for name in split.test.ids)
    assert not RECORD.exists()


def test_validation_is_held_out_of_train_where_only_a_test_set_is_given() -> None:
    photos.write_photos(ROOT / "train", photos.FEW)
    photos.write_photos(ROOT / "test", photos.FEW, first=100)
    split = build(test_per_class=None)
    assert split.val.class_counts.tolist() == [1, 1]
    assert split.class_counts.tolist() == [11, 5]
    assert len(read_assignment(RECORD)) == 18


def test_yesterdays_test_image_may_not_be_moved_into_train() -> None:
    photos.write_photos(ROOT, photos.FEW)
    build()
    for name in photos.FEW:
        (ROOT / "train").mkdir(exist_ok=True)
        shutil.move(ROOT / name, ROOT / "train" / name)
    photos.write_photos(ROOT / "test", photos.FEW, first=100)
    with pytest.raises(InputError, match=r"records train/\w+/\w+\.\w+ as test, .*; move it to test"):
        build(test_per_class=None)


def test_an_image_in_train_and_test_is_refused() -> None:
    photos.write_photos(ROOT / "train", photos.FEW)
    photos.write_photos(ROOT / "test", {"ant": 1, "bee": 0})
    with pytest.raises(InputError, match=r"train/ant/0\.png and test/ant/0\.png are the same image"):
        build(test_per_class=None)


def test_a_class_that_is_called_train() -> None:
    photos.write_photos(ROOT, {"bus": 10, "train": 10})
    assert build().classes == ("bus", "train")


def test_a_class_whose_training_images_left_is_named() -> None:
    photos.write_photos(ROOT, photos.FEW)
    split = build()
    for name in split.train.ids:
        path = ROOT / name.split(" ", 1)[1]
        if path.parent.name == "bee":
            path.unlink()
    with pytest.raises(InputError, match=r"class bee has no training image"):
        build()


def test_validation_that_can_hold_nothing_out_is_refused() -> None:
    photos.write_photos(ROOT, {"ant": 4, "bee": 4})
    with pytest.raises(InputError, match=r"data\.validation\.per_class is 5, but no class has 5 images.*set it to 0"):
        build(test_per_class=1)
    assert len(build(test_per_class=1, validation={"source": "holdout", "per_class": 0}).val) == 0


def test_bad_folders_are_refused() -> None:
    photos.write_photos(ROOT, {"ant": 6, "bee": 6, "cat": 0})
    with pytest.raises(InputError, match=r"data\.path: class folder data/raw/mine/cat holds no image"):
        build()
    (ROOT / "cat").rmdir()
    (ROOT / "bee" / "raw.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"bee/raw\.heic is not one of"):
        build()
    (ROOT / "bee" / "raw.heic").rename(ROOT / "bee" / ".hidden")
    photos.photo(0).save(ROOT / "stray.png")
    with pytest.raises(InputError, match=r"stray\.png lies outside the class folders"):
        build()
    (ROOT / "stray.png").unlink()
    (ROOT / "readme.txt").write_text("a note beside the classes does no harm")
    assert len(sides_of(build())) == 12


def test_bad_parts_are_refused() -> None:
    photos.write_photos(ROOT / "train", photos.FEW)
    photos.write_photos(ROOT / "valid", photos.FEW, first=100)
    with pytest.raises(InputError, match=r"valid stands beside train/; the parts are called train, val and test"):
        build()
    (ROOT / "valid").rename(ROOT / "val")
    with pytest.raises(InputError, match=r"data\.validation\.source is holdout, but"):
        build()
    (ROOT / "val" / "ant").rename(ROOT / "val" / "unknown")
    with pytest.raises(InputError, match=r"val/unknown is no class of train/"):
        build(validation=OFFICIAL["validation"])
    shutil.rmtree(ROOT / "val")
    (ROOT / "test").mkdir()
    with pytest.raises(InputError, match=r"mine/test holds no image"):
        build(test_per_class=None)
