"""Sides by content: the rule, that it never moves an image, and the file that remembers it."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.assignment import Side, assign, contents_of, read_assignment, write_assignment
from longtail.spec import InputError


def contents(*counts: int, start: int = 0) -> dict[str, int]:
    """Make hashes with labels, `counts` per class."""
    return {
        hashlib.sha256(f"{label} {number}".encode()).hexdigest(): label
        for label, count in enumerate(counts)
        for number in range(start, start + count)
    }


def count(sides: dict[str, Side], of: dict[str, int], label: int, side: Side) -> int:
    return sum(sides[sha256] == side for sha256, its_label in of.items() if its_label == label)


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=4), test=st.integers(0, 12), val=st.integers(0, 6))
def test_the_rule_on_the_first_day(counts: list[int], test: int, val: int) -> None:
    images = contents(*counts)
    sides = assign(images, {}, test, val)
    assert sides.keys() == images.keys()
    for label, n in enumerate(counts):
        n_test = test if n >= 5 * test else n // 5
        n_val = 0 if n - n_test < 5 else min(val, max(1, round((n - n_test) / 10)))
        assert count(sides, images, label, "test") == n_test
        assert count(sides, images, label, "val") == n_val
        assert count(sides, images, label, "train") == n - n_test - n_val


def test_the_test_set_is_balanced_as_far_as_the_tail_allows() -> None:
    images = contents(200, 80, 30, 8, 1)
    sides = assign(images, {}, test_per_class=10, val_per_class=5)
    assert [count(sides, images, label, "test") for label in range(5)] == [10, 10, 6, 1, 0]
    assert [count(sides, images, label, "val") for label in range(5)] == [5, 5, 2, 1, 0]
    assert count(sides, images, 4, "train") == 1


def test_the_order_of_the_images_decides_nothing() -> None:
    images = contents(30, 12)
    backwards = dict(reversed(images.items()))
    assert assign(images, {}, 4, 2) == assign(backwards, {}, 4, 2)


@given(
    days=st.lists(st.lists(st.integers(0, 15), min_size=3, max_size=3), min_size=2, max_size=4), lost=st.integers(0, 9)
)
def test_an_image_never_changes_sides(days: list[list[int]], lost: int) -> None:
    present: dict[str, int] = {}
    record: dict[str, Side] = {}
    for day, counts in enumerate(days):
        present |= contents(*counts, start=100 * day)
        for sha256 in sorted(present)[:lost]:  # some files leave
            del present[sha256]
        sides = assign(present, record, test_per_class=3, val_per_class=2)
        assert all(sides[sha256] == record[sha256] for sha256 in present if sha256 in record)
        record |= sides


def test_the_rule_catches_up_when_a_class_grows() -> None:
    old, new = contents(4), contents(40, start=100)
    record = assign(old, {}, 5, 3)
    assert set(record.values()) == {"train"}
    both = old | new
    sides = assign(both, record, 5, 3)
    assert count(sides, both, 0, "test") == 5
    assert count(sides, both, 0, "val") == 3


def test_copies_are_one_content_and_two_labels_are_refused() -> None:
    assert contents_of([("a", 0, "x/1.png"), ("a", 0, "x/2.png"), ("b", 1, "y/3.png")]) == {"a": 0, "b": 1}
    with pytest.raises(InputError, match=r"x/1\.png and y/3\.png are the same image"):
        contents_of([("a", 0, "x/1.png"), ("a", 1, "y/3.png")])


def test_the_file_is_sorted_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "data" / "assignment.csv"
    sides = assign(contents(20, 6), {}, 2, 1)
    write_assignment(path, dict(reversed(sides.items())))
    lines = path.read_bytes().split(b"\n")
    assert lines[0] == b"sha256,side"
    assert lines[-1] == b""
    assert lines[1:-1] == sorted(lines[1:-1])
    assert read_assignment(path) == sides
    assert list(path.parent.iterdir()) == [path]


def test_a_record_that_says_the_same_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "assignment.csv"
    write_assignment(path, {"a" * 64: "test"})
    path.chmod(0o444)
    before = path.stat()
    write_assignment(path, {"a" * 64: "test"})
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_missing_file_records_nothing(tmp_path: Path) -> None:
    assert read_assignment(tmp_path / "assignment.csv") == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,test", "line 3 is not"),
        (f"{'b' * 64},tset", "line 3 is not"),
        ("<<<<<<< HEAD", "line 3 is not"),
        (f"{'a' * 64},train", "line 3 gives image aaaaaaaaaaaa… a second side"),
    ],
)
def test_a_broken_file_is_refused_by_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "assignment.csv"
    path.write_text(f"sha256,side\n{'a' * 64},test\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=reason) as caught:
        read_assignment(path)
    assert str(path) in str(caught.value)
