"""What a collection holds by content; all that is wrong with it at once; and held-out images that stay."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import photos
from longtail.data.assignment import Side, read_assignment, write_assignment
from longtail.data.image_folder import ImageFolder
from longtail.data.image_list import ImageList
from longtail.data.own_images import OwnImages
from longtail.data.split import build_split
from longtail.retraining.inventory import changes, hold, problems, take_inventory
from longtail.spec import InputError

DAY_ONE = {"ant": 60, "bee": 20, "cat": 3}


def folder(path: Path, **changed: Any) -> ImageFolder:
    return ImageFolder.model_validate({"name": "image_folder", "path": str(path), **photos.OWN, **changed})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A flat folder of three classes."""
    photos.write_photos(tmp_path / "mine", DAY_ONE)
    return tmp_path / "mine"


def test_counts_and_digest_go_by_content(mine: Path) -> None:
    before = take_inventory(folder(mine))
    assert before.counts == DAY_ONE and before.unreadable == () and {row.part for row in before.rows} == {""}
    first = sorted((mine / "ant").iterdir())[0]
    shutil.copy(first, first.with_name(f"again{first.suffix}"))
    os.utime(first, (0, 0))
    sorted((mine / "bee").iterdir())[0].rename(mine / "bee" / "renamed.png")
    renamed = take_inventory(folder(mine))
    assert (renamed.digest, renamed.counts) == (before.digest, before.counts)

    photos.write_photos(mine, {"ant": 1}, first=1000)
    grown = take_inventory(folder(mine))
    assert grown.digest != before.digest and grown.counts["ant"] == 61
    shutil.move(mine / "ant" / "1000.png", mine / "bee")
    assert take_inventory(folder(mine)).digest not in (before.digest, grown.digest)  # the label is part of it


def test_everything_that_is_wrong_is_said_at_once(mine: Path) -> None:
    (mine / "ant" / "broken.png").write_bytes(b"not an image")
    whole = next((mine / "bee").glob("*.png")).read_bytes()
    (mine / "bee" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (mine / "bee" / "notes.txt").write_text("notes")
    (mine / "empty").mkdir()
    copied = sorted((mine / "ant").glob("*.jpg"))[0]
    shutil.copy(copied, mine / "cat" / "copy.jpg")
    said = problems(take_inventory(folder(mine)), None, classes_may_vanish=False)
    for words in (
        "ant/broken.png is no readable image (of no known image format); replace it or remove it.",
        "bee/cut.png is no readable image",
        "bee/notes.txt is not one of",
        "Class empty has no image",
    ):
        assert sum(words in sentence for sentence in said) == 1, said
    assert sum("the same image under two classes" in sentence and "copy.jpg" in sentence for sentence in said) == 1
    assert len(said) == 5


def test_many_broken_images_are_counted(mine: Path) -> None:
    for number in range(14):
        (mine / "ant" / f"broken{number}.png").write_bytes(b"not an image")
    said = problems(take_inventory(folder(mine)), None, classes_may_vanish=False)
    assert len(said) == 11 and said[-1] == "4 further images cannot be read."


def test_broken_images_are_news_too(mine: Path) -> None:
    sound = take_inventory(folder(mine)).digest
    (mine / "ant" / "broken.png").write_bytes(b"not an image")
    broken = take_inventory(folder(mine))
    assert broken.digest != sound and broken.counts == DAY_ONE
    (mine / "ant" / "broken.png").unlink()
    (mine / "dog").mkdir()
    assert take_inventory(folder(mine)).digest not in (sound, broken.digest)


def test_without_decoding_sound_images_have_the_same_digest_and_changed_ones_another(mine: Path) -> None:
    sound = take_inventory(folder(mine))
    assert take_inventory(folder(mine), decode=False) == sound
    file = sorted((mine / "ant").iterdir())[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # cut while it was copied
    assert take_inventory(folder(mine), decode=False).digest not in (sound.digest, take_inventory(folder(mine)).digest)


def test_what_stops_the_split_is_a_problem_before_it(mine: Path, tmp_path: Path) -> None:
    shutil.copy(sorted((mine / "ant").glob("*.jpg"))[0], mine)
    assert_both_refuse(folder(mine), tmp_path / "assignment.csv")
    next(mine.glob("*.jpg")).unlink()
    assert problems(take_inventory(folder(mine)), None, classes_may_vanish=False) == []
    split_ids(folder(mine), tmp_path / "assignment.csv")
    for name in ("bee", "cat"):
        shutil.rmtree(mine / name)
    assert_both_refuse(folder(mine), tmp_path / "assignment.csv")


def assert_both_refuse(source: OwnImages, assignment: Path) -> None:
    assert problems(take_inventory(source), None, classes_may_vanish=True)
    with pytest.raises(InputError):
        split_ids(source, assignment)


def test_a_folder_that_lost_everything_is_a_problem(mine: Path) -> None:
    before = take_inventory(folder(mine))
    shutil.rmtree(mine)
    mine.mkdir()
    now = take_inventory(folder(mine))
    (said,) = problems(now, before, classes_may_vanish=True)
    assert said.startswith("A classifier needs at least two classes, but there is only: none")
    assert len(problems(now, before, classes_may_vanish=False)) == 4
    assert changes(now, before).vanished == ("ant", "bee", "cat")


def test_an_emptied_class_is_said_once(mine: Path) -> None:
    before = take_inventory(folder(mine))
    for file in (mine / "cat").iterdir():
        file.unlink()
    (said,) = problems(take_inventory(folder(mine)), before, classes_may_vanish=False)
    assert said == "Class cat has no image; add some, or remove the class."


def test_a_class_whose_images_are_all_held_out_is_named(mine: Path) -> None:
    now = take_inventory(folder(mine))
    sided = now.with_sides(dict.fromkeys(now.contents("cat"), "test"))
    (said,) = problems(sided, None, classes_may_vanish=False)
    assert said.startswith("Class cat has no training image")


def test_copies_within_a_class_are_no_problem(mine: Path) -> None:
    first = sorted((mine / "ant").iterdir())[0]
    shutil.copy(first, first.with_name(f"again{first.suffix}"))
    assert problems(take_inventory(folder(mine)), None, classes_may_vanish=False) == []


def test_an_image_that_was_recorded_anew_as_test_is_found(mine: Path, tmp_path: Path) -> None:
    source, assignment = folder(mine), tmp_path / "assignment.csv"
    split_ids(source, assignment)
    sides = read_assignment(assignment)
    now = take_inventory(source)
    before = now.with_sides(sides)
    assert problems(before, before, classes_may_vanish=False) == []
    trained = next(row for row in before.rows if row.part == "train" and row.name == "ant")
    (said,) = problems(now.with_sides(sides | {trained.sha256: "test"}), before, classes_may_vanish=False)
    assert said.startswith(f"{trained.path} is a test image, but the serving model was trained on it")


def test_an_image_in_two_parts_is_found(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 100)):
        photos.write_photos(tmp_path / part, {"ant": 5, "bee": 5}, first=first)
    source = folder(tmp_path, test_per_class=None)
    clean = take_inventory(source)
    assert problems(clean, None, classes_may_vanish=False) == []
    assert {row.part for row in clean.rows} == {"train", "test"}
    twin = sorted((tmp_path / "train" / "bee").iterdir())[0]
    shutil.copy(twin, tmp_path / "test" / "bee")
    (said,) = problems(take_inventory(source), None, classes_may_vanish=False)
    assert "the same image in test and train" in said or "the same image in train and test" in said


def test_a_vanished_class_and_a_leaked_image_are_found(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 100)):
        photos.write_photos(tmp_path / part, {"ant": 5, "bee": 5, "cat": 5}, first=first)
    source = folder(tmp_path, test_per_class=None)
    before = take_inventory(source)
    leaked = sorted((tmp_path / "train" / "ant").iterdir())[0]
    shutil.move(leaked, tmp_path / "test" / "ant" / f"leaked{leaked.suffix}")
    for part in ("train", "test"):
        shutil.rmtree(tmp_path / part / "cat")
    now = take_inventory(source)
    vanished, moved = problems(now, before, classes_may_vanish=False)
    assert vanished.startswith("Class cat had 10 images and is gone") and "retrain.classes_may_vanish" in vanished
    assert "test/ant/leaked" in moved and "was trained on it" in moved
    assert problems(now, before, classes_may_vanish=True) == [moved]


def test_changes_are_counted_by_class(mine: Path) -> None:
    before = take_inventory(folder(mine))
    photos.write_photos(mine, {"ant": 0, "bee": 7, "cat": 0, "dog": 4}, first=100)
    sorted((mine / "bee").iterdir())[0].unlink()
    found = changes(take_inventory(folder(mine)), before)
    assert found.table == {"ant": (60, 60, 0, 0), "bee": (20, 26, 7, 1), "cat": (3, 3, 0, 0), "dog": (0, 4, 4, 0)}
    assert (found.appeared, found.vanished) == (("dog",), ())
    text = found.markdown()
    assert "| bee | 20 | 26 | 7 | 1 |" in text and "| ant |" not in text and "Classes without a change: 2." in text
    assert "New classes: dog." in text
    assert changes(take_inventory(folder(mine)), None).appeared == ()


def split_ids(source: OwnImages, assignment: Path) -> dict[str, set[str]]:
    split = build_split(source, assignment)  # type: ignore[arg-type]
    return {side: set(getattr(split, side).ids) for side in ("train", "val", "test")}


def test_held_out_images_stay_those_of_the_first_day(mine: Path, tmp_path: Path) -> None:
    source, assignment = folder(mine), tmp_path / "assignment.csv"
    hold(assignment, take_inventory(source), source, extend=False)
    first = split_ids(source, assignment)
    photos.write_photos(mine, {"ant": 40, "bee": 30, "cat": 0, "dog": 30}, first=100)

    said = hold(assignment, take_inventory(source), source, extend=False)
    assert said.startswith("70 new images of known classes train")
    second = split_ids(source, assignment)
    for side in ("val", "test"):
        known = {image for image in second[side] if "/dog/" not in f"/{image.split(' ', 1)[1]}"}
        assert known == first[side]
        assert len(second[side]) > len(first[side])  # the new class has some of its own
    assert second["train"] > first["train"]

    photos.write_photos(mine, {"ant": 0, "bee": 200}, first=1000)
    hold(assignment, take_inventory(source), source, extend=True)
    third = split_ids(source, assignment)
    assert third["test"] > second["test"]  # grown classes have more now
    assert not third["test"] & second["train"] and not third["val"] & second["train"]


def test_a_class_too_small_to_hold_out_gets_its_share_when_it_grows(mine: Path, tmp_path: Path) -> None:
    source, assignment = folder(mine), tmp_path / "assignment.csv"
    split_ids(source, assignment)
    photos.write_photos(mine, {"ant": 0, "bee": 0, "cat": 50}, first=100)
    hold(assignment, take_inventory(source), source, extend=False)
    cats = [image for image in split_ids(source, assignment)["test"] if "cat/" in image]
    assert len(cats) == 10


def test_sides_that_were_recorded_are_parts(mine: Path, tmp_path: Path) -> None:
    source, assignment = folder(mine), tmp_path / "assignment.csv"
    ids = split_ids(source, assignment)
    sided = take_inventory(source).with_sides(read_assignment(assignment))
    assert {f"{row.sha256} {row.path}" for row in sided.rows if row.part == "test"} == ids["test"]


def test_nothing_is_recorded_where_the_data_has_all_parts(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("val", 50), ("test", 100)):
        photos.write_photos(tmp_path / "mine" / part, {"ant": 5, "bee": 5}, first=first)
    source = folder(tmp_path / "mine", test_per_class=None, validation={"source": "official", "per_class": 5})
    assert "the data's own" in hold(tmp_path / "assignment.csv", take_inventory(source), source, extend=False)
    assert not (tmp_path / "assignment.csv").exists()


def test_validation_images_stay_where_the_data_has_a_test_set(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 100)):
        photos.write_photos(tmp_path / "mine" / part, {"ant": 30, "bee": 12}, first=first)
    source, assignment = folder(tmp_path / "mine", test_per_class=None), tmp_path / "assignment.csv"
    first_day = split_ids(source, assignment)
    photos.write_photos(tmp_path / "mine" / "train", {"ant": 60, "bee": 60, "cat": 20}, first=200)
    assert hold(assignment, take_inventory(source), source, extend=False).startswith("120 new images")
    second = split_ids(source, assignment)
    assert {image for image in second["val"] if "/cat/" not in image} == first_day["val"]
    assert first_day["val"] < second["val"]  # of the new class
    assert second["test"] == first_day["test"]


def test_sides_that_the_data_brings_itself_hold_nothing(tmp_path: Path) -> None:
    """A record from before the data had a test set: a class whose only held-out images are of test has none."""
    for part, first in (("train", 0), ("test", 100)):
        photos.write_photos(tmp_path / "mine" / part, {"ant": 30, "bee": 30}, first=first)
    source, assignment = folder(tmp_path / "mine", test_per_class=None), tmp_path / "assignment.csv"
    now = take_inventory(source)
    ants = [row.sha256 for row in now.rows if row.name == "ant" and row.part == "test"]
    bees = sorted(row.sha256 for row in now.rows if row.name == "bee" and row.part == "train")
    recorded: dict[str, Side] = {**dict.fromkeys(ants, "test"), bees[0]: "val"}
    write_assignment(assignment, recorded)
    assert hold(assignment, now, source, extend=False).startswith("29 new images")
    assert set(read_assignment(assignment)) == {*ants, *bees}


def test_test_images_alone_hold_a_class(mine: Path, tmp_path: Path) -> None:
    source = folder(mine, validation={"source": "holdout", "per_class": 0})
    first = split_ids(source, tmp_path / "assignment.csv")
    photos.write_photos(mine, {"ant": 0, "bee": 40}, first=400)
    assert hold(tmp_path / "assignment.csv", take_inventory(source), source, extend=False).startswith("40 new images")
    assert split_ids(source, tmp_path / "assignment.csv")["test"] == first["test"]


def test_nothing_is_written_where_there_is_nothing_to_hold(mine: Path, tmp_path: Path) -> None:
    source, assignment = folder(mine), tmp_path / "assignment.csv"
    assert hold(assignment, take_inventory(source), source, extend=False).startswith("0 new images")
    assert not assignment.exists()
    split_ids(source, assignment)
    before = assignment.stat().st_mtime_ns, assignment.stat().st_ino
    hold(assignment, take_inventory(source), source, extend=False)
    assert (assignment.stat().st_mtime_ns, assignment.stat().st_ino) == before


def test_holding_does_not_ask_whether_the_inventory_has_its_sides(mine: Path, tmp_path: Path) -> None:
    source, one, other = folder(mine), tmp_path / "one.csv", tmp_path / "other.csv"
    split_ids(source, one)
    shutil.copy(one, other)
    photos.write_photos(mine, {"ant": 9}, first=300)
    now = take_inventory(source)
    hold(one, now, source, extend=False)
    hold(other, now.with_sides(read_assignment(other)), source, extend=False)
    assert one.read_bytes() == other.read_bytes() and len(read_assignment(one)) == sum(DAY_ONE.values()) + 9


def test_a_damaged_record_is_refused_before_anything_is_written(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "assignment.csv").write_text("sha256,side\n<<<<<<< HEAD\n")
    with pytest.raises(InputError, match=r"line 2 is not"):
        hold(tmp_path / "assignment.csv", take_inventory(folder(mine)), folder(mine), extend=False)


def test_lists_are_read_like_folders(mine: Path, tmp_path: Path) -> None:
    names = sorted(DAY_ONE)
    lines = [f"{path.parent.name}/{path.name} {names.index(path.parent.name)}" for path in sorted(mine.glob("*/*"))]
    (tmp_path / "mine" / "train.txt").write_text("\n".join(lines))
    (tmp_path / "mine" / "classes.txt").write_text("\n".join(names))
    lists = {"train": "train.txt", "val": None, "test": None, "classes": "classes.txt"}
    source = ImageList.model_validate({"name": "image_list", "path": str(mine), **photos.OWN, **lists})
    listed = take_inventory(source)
    for file in ("train.txt", "classes.txt"):
        (mine / file).unlink()
    assert listed.digest == take_inventory(folder(mine)).digest


def test_a_folder_that_vanished_names_the_parameter(mine: Path) -> None:
    source = folder(mine)
    shutil.rmtree(mine)
    with pytest.raises(InputError, match=r"data\.path: no such folder"):
        take_inventory(source)
