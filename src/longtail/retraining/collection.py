"""A collection of own images, by content, and how it differs from an earlier one."""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from longtail.data.assignment import Side
from longtail.markdown import table
from longtail.spec import InputError

HEADER = ["sha256", "class", "path", "part"]
SHOWN = 50  # classes of a table or of a sentence


class Row(NamedTuple):
    """An image: its content, its class, where it lies, and train, val or test ("" where the data has no parts)."""

    sha256: str
    name: str
    path: str
    part: str


@dataclass(frozen=True)
class Inventory:
    """All images of a collection.

    Args:
        rows: of images that can be read, sorted.
        classes: names of the classes that train, also of those without an image, sorted.
        unreadable: path and reason of the others, and of all else that is in the way (such as a line of a list).
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """Identify the images by content, class and part; names and dates of files do not count.

        What is wrong counts too; a night that brings nothing but broken images would look like any other.
        """
        told = sorted({(row.sha256, row.name, row.part) for row in self.rows})
        empty = [name for name in self.classes if not self.counts[name]]
        return hashlib.sha256(repr((told, empty, [path for path, _ in self.unreadable])).encode()).hexdigest()

    @cached_property
    def counts(self) -> dict[str, int]:
        """Different images of each class."""
        found = Counter(name for _, name in {(row.sha256, row.name) for row in self.rows})
        return {name: found[name] for name in self.classes}

    def contents(self, name: str) -> set[str]:
        """Return the contents of a class."""
        return self._by_class.get(name, set())

    @cached_property
    def _by_class(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            found[row.name].add(row.sha256)
        return found

    def with_sides(self, recorded: Mapping[str, Side]) -> "Inventory":
        """Return it with the recorded side of each image as its part, where the data has no such part of its own.

        Args:
            recorded: side of each sha256, see `longtail.data.assignment`.
        """
        own = {row.part for row in self.rows} - {"", "train"}

        def sided(row: Row) -> Row:
            side = recorded.get(row.sha256)
            return row if side is None or side in own or row.part in own else row._replace(part=side)

        return replace(self, rows=tuple(map(sided, self.rows)))

    def save(self, path: Path) -> None:
        """Write the rows as CSV, in one move."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *self.rows])
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Inventory":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *lines = list(csv.reader(file)) or [[]]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read ({error}); restore it from git.") from None
        for number, fields in enumerate(lines, start=2):
            if len(fields) != len(HEADER) or not re.fullmatch("[0-9a-f]{64}", fields[0]):
                raise InputError(f"{path} row {number} is not `{','.join(HEADER)}`; restore the file from git.")
        if header != HEADER:
            raise InputError(f"{path} does not begin with `{','.join(HEADER)}`; restore the file from git.")
        rows = tuple(Row(*fields) for fields in lines)
        return cls(rows, tuple(sorted({row.name for row in rows})), ())


@dataclass(frozen=True)
class Changes:
    """How a collection differs from an earlier one.

    Args:
        table: class -> images then, now, new, gone.
        appeared, vanished: classes; of a first collection none has appeared.
    """

    table: Mapping[str, tuple[int, int, int, int]]
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]

    def markdown(self) -> str:
        """Return a table of the classes that changed, those that changed most first."""
        changed = {name: numbers for name, numbers in self.table.items() if numbers[2] or numbers[3]}
        order = sorted(changed, key=lambda name: (-changed[name][2] - changed[name][3], name))
        rows = [[name, *map(str, changed[name])] for name in order[:SHOWN]]
        lines = table(["class", "then", "now", "new", "gone"], rows) if rows else []
        more, same = len(order[SHOWN:]), len(self.table) - len(order)
        notes = [f"Further classes that changed: {more:,}."] if more else []
        notes += [f"Classes without a change: {same:,}."] if same else []
        notes += [f"New classes: {_names(self.appeared)}."] if self.appeared else []
        notes += [f"Vanished classes: {_names(self.vanished)}."] if self.vanished else []
        return "\n".join(lines + [""] * bool(lines and notes) + notes) + "\n"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def changes(now: Inventory, before: Inventory | None) -> Changes:
    """Compare with an earlier inventory; None: all is new."""
    old = before or Inventory((), (), ())
    names = sorted({*now.classes, *old.classes})
    table = {}
    for name in names:
        ours, theirs = now.contents(name), old.contents(name)
        table[name] = (len(theirs), len(ours), len(ours - theirs), len(theirs - ours))
    appeared = tuple(name for name in names if before and table[name][1] and not table[name][0])
    vanished = tuple(name for name in names if table[name][0] and not table[name][1])
    return Changes(table, appeared, vanished)
