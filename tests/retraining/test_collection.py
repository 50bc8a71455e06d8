"""Collections by content, without any image: their identity, their sides, their file and how they change."""

import hashlib
from pathlib import Path

import pytest

from longtail.data.assignment import Side
from longtail.retraining.collection import SHOWN, Inventory, Row, changes
from longtail.spec import InputError


def content(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()


def collection(*images: str, prefix: str = "") -> Inventory:
    """Make an inventory of `part class content` images, whose paths begin with `prefix`; `-` is no part."""
    rows = [
        Row(content(seed), name, f"{prefix}{name}/{seed}.png", part.strip("-"))
        for part, name, seed in map(str.split, images)
    ]
    return Inventory(tuple(sorted(rows)), tuple(sorted({row.name for row in rows})), ())


MIXED = ("- ant 1", "- ant 2", "- bee 3")


def test_the_digest_is_of_content_class_and_part_alone() -> None:
    first = collection(*MIXED)
    assert collection(*MIXED[::-1], prefix="elsewhere/").digest == first.digest
    assert collection(*MIXED, "- ant 1").digest == first.digest
    others = [collection("- ant 1", "- ant 2", image) for image in ("- ant 3", "- bee 4", "train bee 3", "test bee 3")]
    assert len({other.digest for other in [first, *others]}) == 5


def test_copies_count_once() -> None:
    assert collection(*MIXED, "- ant 1", "- bee 1").counts == {"ant": 2, "bee": 2}


def test_recorded_sides_fill_what_the_data_does_not_bring() -> None:
    sides: dict[str, Side] = {content("1"): "test", content("2"): "val", content("3"): "train"}
    parts = [row.part for row in sorted(collection(*MIXED).with_sides(sides).rows, key=lambda row: row.path)]
    assert parts == ["test", "val", "train"]
    assert {row.part for row in collection("- ant 9").with_sides(sides).rows} == {""}


def test_recorded_sides_give_way_to_parts_of_the_data() -> None:
    sides: dict[str, Side] = {content("1"): "test", content("2"): "val", content("3"): "train"}
    half = collection("train ant 1", "train ant 2", "test bee 3").with_sides(sides)
    assert {row.path: row.part for row in half.rows} == {"ant/1.png": "train", "ant/2.png": "val", "bee/3.png": "test"}
    whole = collection("train ant 1", "train ant 2", "val bee 3", "test bee 4")
    assert whole.with_sides(sides) == whole


def test_it_survives_a_file(tmp_path: Path) -> None:
    odd = Row(content("x"), 'a "name", with\nall', "a/é ü.png", "")
    inventory = Inventory(tuple(sorted([*collection(*MIXED).rows, odd])), (odd.name, "ant", "bee"), ())
    file = tmp_path / "data" / "inventory.csv"
    inventory.save(file)
    loaded = Inventory.load(file)
    assert (loaded, loaded.digest) == (inventory, inventory.digest)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "does not begin with `sha256,class,path,part`"),
        (b"sha256,side\n", "does not begin with"),
        (b"sha256,class,path,part\nabc,ant,ant/1.png,\n", "row 2 is not"),
        (b"sha256,class,path,part\n" + b"a" * 64 + b",ant\n", "row 2 is not"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: bytes | None, reason: str) -> None:
    file = tmp_path / "inventory.csv"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(InputError, match=reason) as caught:
        Inventory.load(file)
    assert str(file) in str(caught.value) and "restore" in str(caught.value)


def test_a_class_that_moved_is_counted_on_both_sides() -> None:
    found = changes(collection("- ant 1", "- cat 3", "- cat 4"), collection(*MIXED))
    assert found.table == {"ant": (2, 1, 0, 1), "bee": (1, 0, 0, 1), "cat": (0, 2, 2, 0)}
    assert (found.appeared, found.vanished) == (("cat",), ("bee",))
    assert "New classes: cat.\nVanished classes: bee.\n" in found.markdown()


def test_of_a_first_collection_all_is_new_and_no_class_has_appeared() -> None:
    found = changes(collection(*MIXED), None)
    assert found.table == {"ant": (0, 2, 2, 0), "bee": (0, 1, 1, 0)}
    assert (found.appeared, found.vanished) == ((), ())


def test_a_collection_that_did_not_change_has_no_table() -> None:
    assert changes(collection(*MIXED), collection(*MIXED)).markdown() == "Classes without a change: 2.\n"


def test_a_long_table_is_cut_to_what_changed_most() -> None:
    many = SHOWN + 7
    now = [f"- class{number:03} {number}" for number in range(many)]
    found = changes(collection(*now, "- most 1a", "- most 1b", "- same 1c"), collection("- same 1c"))
    lines = found.markdown().splitlines()
    rows = [line for line in lines if line.startswith(("| class0", "| most"))]
    assert len(rows) == SHOWN and rows[0] == "| most | 0 | 2 | 2 | 0 |"
    assert f"Further classes that changed: {many + 1 - SHOWN}." in lines
    assert "Classes without a change: 1." in lines
    assert any(line.startswith("New classes: class000") and line.endswith("and 8 more.") for line in lines)


def test_a_class_name_cannot_break_the_table() -> None:
    assert r"| a\|b | 0 | 1 | 1 | 0 |" in changes(collection("- a|b 1"), None).markdown()
