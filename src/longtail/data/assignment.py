"""Which side each of your own images is on, by content and for ever.

The rule, per class of n different images: the test set gets min(test_per_class, n // 5) of them, so it is balanced as
far as the tail allows and costs no class more than a fifth; validation then gets `holdout_size` of the others; the rest
trains. Images are taken in the order of their sha256, which has nothing to do with names or time. What
`data/assignment.csv` records stays: images that come later fill what the rule says for the larger class, and images
that left keep their row, so tomorrow's split never trains on yesterday's test.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, cast

from longtail.data.validation import holdout_size
from longtail.spec import InputError

Side = Literal["train", "val", "test"]
HEADER = ["sha256", "side"]
TEST_SHARE = 5  # test takes at most one image in five of a class


def read_assignment(path: Path) -> dict[str, Side]:
    """Read the recorded side of each content hash; a missing file records nothing.

    Raises:
        InputError: a line is not `sha256,side`, or two lines disagree (a merge of two branches can do that).
    """
    if not path.exists():
        return {}
    sides: dict[str, Side] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if number == 1 and row == HEADER:
                continue
            if len(row) != 2 or not re.fullmatch("[0-9a-f]{64}", row[0]) or row[1] not in ("train", "val", "test"):
                raise InputError(f"{path} line {number} is not `sha256,train|val|test`; restore the file from git.")
            side = cast(Side, row[1])
            if sides.setdefault(row[0], side) != side:
                raise InputError(f"{path} line {number} gives image {row[0][:12]}… a second side; keep the older line.")
    return sides


def write_assignment(path: Path, sides: Mapping[str, Side]) -> None:
    """Write the record sorted by hash, in one move; a record that says the same already is not touched."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *sorted(sides.items())])
    data = text.getvalue().encode()
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def contents_of(images: Iterable[tuple[str, int, str]]) -> dict[str, int]:
    """Return the label of each distinct content; copies of an image are one content.

    Args:
        images: (sha256, label, path) of each file.

    Raises:
        InputError: one content has two labels.
    """
    seen: dict[str, tuple[int, str]] = {}
    for sha256, label, path in images:
        other_label, other_path = seen.setdefault(sha256, (label, path))
        if other_label != label:
            raise InputError(
                f"data.path: {other_path} and {path} are the same image under two classes; remove one of them."
            )
    return {sha256: label for sha256, (label, _) in seen.items()}


def assign(
    contents: Mapping[str, int], recorded: Mapping[str, Side], test_per_class: int, val_per_class: int
) -> dict[str, Side]:
    """Give every content its side: the recorded one, or one by the rule above.

    Args:
        contents: label of each sha256 that is there today.
        recorded: side of each sha256 ever seen.
        test_per_class, val_per_class: at most so many of a class; 0 where the source brings its own.

    Returns:
        the sides of `contents`.
    """
    by_class: dict[int, list[str]] = defaultdict(list)
    for sha256 in sorted(contents):
        by_class[contents[sha256]].append(sha256)
    sides: dict[str, Side] = {}
    for members in by_class.values():
        sides |= _assign_class(members, recorded, test_per_class, val_per_class)
    return sides


def _assign_class(
    members: list[str], recorded: Mapping[str, Side], test_per_class: int, val_per_class: int
) -> dict[str, Side]:
    known: dict[str, Side] = {sha256: recorded[sha256] for sha256 in members if sha256 in recorded}
    new = [sha256 for sha256 in members if sha256 not in recorded]
    test = min(test_per_class, len(members) // TEST_SHARE)
    val = holdout_size(len(members) - test, val_per_class)
    counts = Counter(known.values())
    test_missing, val_missing = max(0, test - counts["test"]), max(0, val - counts["val"])
    fresh: dict[str, Side] = dict.fromkeys(new, "train")
    fresh |= dict.fromkeys(new[test_missing : test_missing + val_missing], "val")
    fresh |= dict.fromkeys(new[:test_missing], "test")
    return known | fresh
