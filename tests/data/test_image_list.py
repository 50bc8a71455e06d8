"""Images by list files."""

from pathlib import Path
from typing import Any

import pytest

import photos
from longtail.data.assignment import read_assignment
from longtail.data.image_list import ImageList
from longtail.data.split import build_split
from longtail.images.labeled import LongTailSplit
from longtail.spec import InputError

GOOD: dict[str, Any] = {
    **photos.OWN,
    "path": "images",
    "train": "train.txt",
    "val": "val.txt",
    "test": "lists/test.txt",
    "classes": None,
    "test_per_class": None,
    "validation": {"source": "official", "per_class": 2},
}
ROOT, RECORD = Path("images"), Path("data/assignment.csv")
ALONE: dict[str, Any] = {
    "val": None,
    "test": None,
    "test_per_class": 3,
    "validation": {"source": "holdout", "per_class": 2},
}


def lines(name: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} {label}"
        for label, n in enumerate("ab")
        for file in sorted((ROOT / name / n).iterdir())
    ]


@pytest.fixture(autouse=True)
def images_with_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write train.txt beside the images, val.txt in the working folder and test.txt in lists/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    for number, (part, place) in enumerate({"train set": "images", "val": ".", "test": "lists"}.items()):
        photos.write_photos(ROOT / part, {"a": 20, "b": 6} if number == 0 else {"a": 3, "b": 3}, first=100 * number)
        Path(place).mkdir(exist_ok=True)
        Path(place, f"{part.split()[0]}.txt").write_text("\n".join([*lines(part), "", ""]), encoding="utf-8")


def build(**change: Any) -> LongTailSplit:
    return build_split(ImageList.model_validate(GOOD | change), RECORD)


def test_published_lists_are_taken_as_they_are() -> None:
    split = build()
    assert split.class_counts.tolist() == [20, 6]
    assert split.val.class_counts.tolist() == [2, 2]  # per_class caps it
    assert split.test.class_counts.tolist() == [3, 3]
    assert split.classes == ("0", "1")
    assert all(name.split(" ", 1)[1].startswith("train set/") for name in split.train.ids)
    assert not RECORD.exists()


def test_the_order_of_the_lines_changes_nothing() -> None:
    first = build()
    (ROOT / "train.txt").write_text("\n".join(reversed(lines("train set"))), encoding="utf-8")
    assert build().digest == first.digest


def test_names_come_from_a_file() -> None:
    (ROOT / "names.txt").write_text("ant\nbee\n", encoding="utf-8")
    assert build(classes="names.txt").classes == ("ant", "bee")


def test_a_train_list_alone_is_divided_by_content() -> None:
    split = build(**ALONE)
    assert split.test.class_counts.tolist() == [3, 1]
    assert split.val.class_counts.tolist() == [2, 1]
    assert split.class_counts.tolist() == [15, 4]
    assert len(read_assignment(RECORD)) == 26


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train set/a/0.png", r"write `path label`"),
        ("train set/a/0.png one", r"write `path label`"),
        ("train set/a/0.png 1.5", r"write `path label`"),
        ("train set/a/0.png --1", r"write `path label`"),
        ("0", r"write `path label`"),
        ("train set/a/0.png -1", r"has label -1; labels go from 0"),
        ("train set/a/gone.png 1", r"names train set/a/gone\.png, which is not under images"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(line: str, reason: str) -> None:
    with (ROOT / "train.txt").open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    number = (ROOT / "train.txt").read_text(encoding="utf-8").splitlines().index(line) + 1
    with pytest.raises(InputError, match=rf"images/train\.txt line {number} .*{reason}"):
        build()


def test_a_label_that_training_does_not_know_is_named() -> None:
    with Path("val.txt").open("a", encoding="utf-8") as file:
        file.write("val/a/100.png 2\n")
    with pytest.raises(InputError, match=r"val\.txt line \d+ has label 2; labels go from 0 to 1"):
        build()


def test_a_list_that_is_no_text_is_named() -> None:
    Path("val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"val\.txt cannot be read as text"):
        build()


def test_classes_and_labels_must_agree() -> None:
    (ROOT / "names.txt").write_text("ant\nbee\ncat\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.train has no image of class cat \(label 2\)"):
        build(classes="names.txt")
    (ROOT / "names.txt").write_text("ant\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.classes names 1 classes, but data\.train has label 1"):
        build(classes="names.txt")


def test_labels_count_from_zero_without_a_gap() -> None:
    text = (ROOT / "train.txt").read_text(encoding="utf-8").replace(" 1\n", " 1000000000\n")
    (ROOT / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.train has no image of class 1 \(label 1\)"):
        build()


def test_a_missing_or_empty_list_is_named() -> None:
    with pytest.raises(InputError, match=r"data\.test is nowhere\.txt, but there is no such file"):
        build(test="nowhere.txt")
    Path("val.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"val\.txt lists no image"):
        build()


def test_an_image_in_two_lists_is_refused() -> None:
    with Path("val.txt").open("a", encoding="utf-8") as file:
        file.write("train set/a/3.jpg 0\n")
    with pytest.raises(InputError, match=r"data\.train and data\.val both list train set/a/3\.jpg"):
        build()


def test_one_image_with_two_labels_is_refused_where_content_decides() -> None:
    with (ROOT / "train.txt").open("a", encoding="utf-8") as file:
        file.write("\ntrain set/a/0.png 1\n")
    with pytest.raises(InputError, match=r"are the same image under two classes"):
        build(**ALONE)
