"""Where images are said to be, with all that is wrong, in folders and in lists."""

import os
from pathlib import Path
from typing import Any

import pytest

import photos
from longtail.data.image_folder import ImageFolder
from longtail.data.image_list import ImageList
from longtail.retraining.places import Place, Places, find_places
from longtail.spec import InputError

HELD_OUT: dict[str, Any] = {"test_per_class": 5, "validation": {"source": "holdout", "per_class": 5}}
OFFICIAL: dict[str, Any] = {"test_per_class": None, "validation": {"source": "official", "per_class": 5}}
ROOT = Path("mine")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def in_folder(**held_out: Any) -> Places:
    return find_places(ImageFolder.model_validate({"path": "mine", **photos.OWN, **(held_out or HELD_OUT)}), ROOT)


def in_lists(held_out: dict[str, Any] = HELD_OUT, **lists: str | None) -> Places:
    files = {"train": "train.txt", "val": None, "test": None, "classes": None} | lists
    return find_places(ImageList.model_validate({"path": "mine", **photos.OWN, **held_out, **files}), ROOT)


def write_parts(*parts: str) -> None:
    for number, part in enumerate(parts):
        photos.write_photos(ROOT / part, {"ant": 2, "bee": 1}, first=100 * number)


def test_a_flat_folder_has_no_parts() -> None:
    write_parts(".")
    places = in_folder()
    files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*"))
    assert sorted(places.found) == [Place(file, file.split("/")[0], "") for file in files]
    assert (places.classes, places.faults) == (["ant", "bee"], [])


def test_parts_are_named() -> None:
    write_parts("train", "val", "test")
    places = in_folder(**OFFICIAL)
    assert len(places.found) == 9 and places.faults == []
    assert all(place.path.startswith(f"{place.part}/{place.name}/") for place in places.found)


def test_all_that_is_wrong_with_folders_is_noted() -> None:
    write_parts("train", "val")
    (ROOT / "test").mkdir()
    photos.write_photos(ROOT, {"valid": 1})
    photos.write_photos(ROOT / "val", {"zebra": 1}, first=500)
    photos.photo(7).save(ROOT / "train" / "stray.png")
    (ROOT / "train" / "ant" / "raw.heic").write_bytes(b"x")
    (ROOT / "train" / "ant" / ".hidden").write_bytes(b"x")
    places = in_folder(**OFFICIAL)
    faults = dict(places.faults)
    assert len(faults) == len(places.faults)
    assert faults.keys() == {"valid", "val/zebra", "train/stray.png", "train/ant/raw.heic", "test"}
    assert "stands beside train/" in faults["valid"] and "is no class of train/" in faults["val/zebra"]
    assert "outside the class folders" in faults["train/stray.png"] and "holds no image" in faults["test"]
    assert len(places.found) == 7 and places.classes == ["ant", "bee"]


def test_a_name_that_is_not_utf_8_is_a_fault_that_can_be_printed() -> None:
    write_parts(".")
    odd = os.fsencode(ROOT / "ant") + b"/\xff.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    ((path, why),) = in_folder().faults
    assert path.encode() == "ant/\N{REPLACEMENT CHARACTER}.png".encode() and "not UTF-8" in why


def test_a_folder_that_vanishes_meanwhile_names_the_parameter() -> None:
    with pytest.raises(InputError, match=r"data\.path: mine cannot be listed \(No such file or directory\)"):
        in_folder()


def test_parameters_that_contradict_the_data_are_refused() -> None:
    write_parts("train", "test")
    with pytest.raises(InputError, match=r"data\.test_per_class is 5, but"):
        in_folder()
    with pytest.raises(InputError, match=r"data\.validation\.source is official, but"):
        in_folder(**OFFICIAL)


def write_list(name: str, *lines: str) -> None:
    (ROOT / name).write_text("\n".join([*lines, ""]), encoding="utf-8")


def test_lists_have_parts_only_if_there_are_several() -> None:
    write_parts("some")
    ants = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "some").rglob("*.*"))
    write_list("train.txt", f"{ants[0]} 0", "", f"{ants[1]} 1")
    write_list("test.txt", f"{ants[2]} 1")
    assert in_lists().found == [Place(ants[0], "0", ""), Place(ants[1], "1", "")]
    write_list("names.txt", "cat", "dog")
    given = HELD_OUT | {"test_per_class": None}
    both = in_lists(given, test="test.txt", classes="names.txt")
    assert both.found == [Place(ants[0], "cat", "train"), Place(ants[1], "dog", "train"), Place(ants[2], "dog", "test")]
    assert (both.classes, both.faults) == (["cat", "dog"], [])


def test_all_that_is_wrong_with_lists_is_noted() -> None:
    write_parts("some")
    write_list("train.txt", "some/ant/0.png 0", "gone.png 0", "some/ant/0.png", "some/ant/1.png -1", "away.png 1")
    write_list("test.txt")
    write_list("val.txt", "some/ant/0.png 1000000000", "some/ant/0.png 1")
    places = in_lists(OFFICIAL, val="val.txt", test="test.txt")
    faults = dict(places.faults)
    train, val, test = (f"mine/{name}.txt" for name in ("train", "val", "test"))
    assert faults.keys() == {
        *(f"{train} line {number}" for number in (2, 3, 4, 5)),
        f"{val} line 1",
        f"{val} line 2",
        test,
    }
    assert faults[f"{train} line 2"].startswith("names gone.png, which is not under mine")
    assert "write `path label`" in faults[f"{train} line 3"] and "has label -1" in faults[f"{train} line 4"]
    assert faults[f"{val} line 1"].startswith("has label 1000000000; labels go from 0 to 0")
    assert faults[f"{val} line 2"].startswith("has label 1; labels go from 0 to 0")
    assert "lists no image" in faults[test]
    assert places.found == [Place("some/ant/0.png", "0", "train")]


def test_lists_are_looked_for_like_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_parts("some")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "train.txt").write_text("some/ant/0.png 0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.train is train\.txt, but there is no such file"):
        in_lists()
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "shared"))
    assert len(in_lists().found) == 1
