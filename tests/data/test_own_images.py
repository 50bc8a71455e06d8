"""What folders and lists share: order by content, and test and validation sets that must be there or not."""

from pathlib import Path
from typing import Any

import pytest

import photos
from longtail.data.own_images import OwnImages, check_classes, content_keys, read_listing
from longtail.images.labeled import ImageFiles
from longtail.spec import InputError

GOOD: dict[str, Any] = {"path": "mine", **photos.OWN}


def test_order_is_by_label_and_content_not_by_name(tmp_path: Path) -> None:
    photos.write_photos(tmp_path, {"ant": 6, "bee": 4})
    listing = [(f"{path.parent.name}/{path.name}", int(path.parent.name == "bee")) for path in tmp_path.glob("*/*")]
    images, contents = read_listing(tmp_path, listing, 2, 16)
    assert images.labels.tolist() == [0] * 6 + [1] * 4
    assert list(contents) == sorted(contents[:6]) + sorted(contents[6:])
    assert isinstance(images.images, ImageFiles)
    assert list(images.ids) == [f"{c} {path}" for c, path in zip(contents, images.images.paths, strict=True)]
    shuffled, same = read_listing(tmp_path, listing[::-1], 2, 16)
    assert (shuffled.ids, same) == (images.ids, contents)


def test_keys_tell_content_label_and_size_apart() -> None:
    keys = {content_keys([c], [label], size)[0] for c in ("aa", "bb") for label in (0, 1) for size in (16, 32)}
    assert len(keys) == 8


def test_a_missing_folder_names_the_parameter_and_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data\.path: no such folder; looked in data\.path \(mine\), LONGTAIL_DATA"):
        OwnImages.model_validate(GOOD).find_root()
    (tmp_path / "data" / "raw" / "mine").mkdir(parents=True)
    assert OwnImages.model_validate(GOOD).find_root() == Path("data/raw/mine")


def test_the_test_set_is_either_given_or_asked_for() -> None:
    asked, given = OwnImages.model_validate(GOOD), OwnImages.model_validate(GOOD | {"test_per_class": None})
    asked.check_test(has_test=False)
    given.check_test(has_test=True)
    with pytest.raises(InputError, match=r"data\.test_per_class is 10, but .*set it to null"):
        asked.check_test(has_test=True)
    with pytest.raises(InputError, match=r"data\.test_per_class is null, but .*such as 20"):
        given.check_test(has_test=False)


def test_the_validation_set_is_either_given_or_held_out() -> None:
    held = OwnImages.model_validate(GOOD)
    given = OwnImages.model_validate(GOOD | {"validation": {"source": "official", "per_class": 5}})
    held.check_validation(has_val=False)
    given.check_validation(has_val=True)
    with pytest.raises(InputError, match=r"data\.validation\.source is official, but .*set it to holdout"):
        given.check_validation(has_val=False)
    with pytest.raises(InputError, match=r"data\.validation\.source is holdout, but .*set it to official"):
        held.check_validation(has_val=True)


def test_one_class_is_refused() -> None:
    check_classes(["ant", "bee"])
    for classes in ([], ["ant"]):
        with pytest.raises(InputError, match="at least two classes"):
            check_classes(classes)
