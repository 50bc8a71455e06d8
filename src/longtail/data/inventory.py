"""What a collection of own images holds today, by content, and what is wrong or new in it. Nothing stops at the first.

Training reads data strictly: the first broken image ends it. Before a nightly training everything that is wrong is to
be said at once, so this looks at all files first.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from longtail.data.assignment import Side, read_assignment, write_assignment
from longtail.data.decoding import decode
from longtail.data.image_folder import SUFFIXES, ImageFolder, parts_of
from longtail.data.image_list import ImageList, read_list
from longtail.data.own_images import OwnImages
from longtail.spec import InputError

HEADER = ["sha256", "class", "path", "part"]
NAMED = 10  # broken images that are named; more are counted
SHOWN = 50  # classes of a table


class Row(NamedTuple):
    """An image: its content, its class, where it lies, and train, val or test ("" where the data has no parts)."""

    sha256: str
    name: str
    path: str
    part: str


class Place(NamedTuple):
    """A file that is said to be an image of a class."""

    path: str
    name: str
    part: str


@dataclass(frozen=True)
class Inventory:
    """All images of a collection.

    Args:
        rows: of images that can be read, sorted.
        classes: names, also of classes without an image.
        unreadable: path and reason of the others.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """Identify the images by content, class and part; names and dates of files have no say."""
        told = sorted({(row.sha256, row.name, row.part) for row in self.rows})
        return hashlib.sha256(repr((told, self.classes, self.unreadable)).encode()).hexdigest()

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
        """Return it with the recorded side of each image as its part, where the data has no test or val of its own."""
        return replace(
            self,
            rows=tuple(
                row._replace(part=recorded.get(row.sha256, row.part)) if row.part in ("", "train") else row
                for row in self.rows
            ),
        )

    def save(self, path: Path) -> None:
        """Write the rows as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *self.rows])

    @classmethod
    def load(cls, path: Path) -> "Inventory":
        """Read what `save` wrote."""
        with path.open(newline="", encoding="utf-8") as file:
            rows = tuple(Row(*fields) for fields in list(csv.reader(file))[1:])
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
        shown = sorted(changed.items(), key=lambda item: (-item[1][2] - item[1][3], item[0]))[:SHOWN]
        lines = ["| class | then | now | new | gone |", "| :--- | ---: | ---: | ---: | ---: |"]
        lines += [f"| {name} | {then} | {now} | {new} | {gone} |" for name, (then, now, new, gone) in shown]
        lines += ["", f"{len(self.table) - len(shown)} further classes." if len(self.table) > len(shown) else ""]
        lines += [f"New classes: {', '.join(self.appeared)}."] if self.appeared else []
        lines += [f"Vanished classes: {', '.join(self.vanished)}."] if self.vanished else []
        return "\n".join(lines).rstrip() + "\n"


def take_inventory(source: OwnImages) -> Inventory:
    """Look at every image of a source: hash it and decode it.

    Raises:
        InputError: the folder is gone, or its shape is not that of such a source.
    """
    root = source.find_root()
    places, classes = _places(source, root)

    def look(place: Place) -> tuple[str, str]:
        return _look(root, place, source.image_size)

    with ThreadPoolExecutor() as pool:
        looked = list(zip(places, pool.map(look, places, chunksize=64), strict=True))
    rows = sorted(Row(sha256, place.name, place.path, place.part) for place, (sha256, why) in looked if not why)
    broken = sorted((place.path, why) for place, (_, why) in looked if why)
    return Inventory(tuple(rows), tuple(classes), tuple(broken))


def _look(root: Path, place: Place, size: int) -> tuple[str, str]:
    """Return the content's hash, and why it is no image ("" if it is one)."""
    if Path(place.path).suffix.lower() not in SUFFIXES:
        return "", f"is not one of {' '.join(SUFFIXES)}"
    try:
        data = (root / place.path).read_bytes()
        decode(root / place.path, size, None)
    except OSError as error:
        return "", f"cannot be read ({error.strerror})"
    except InputError as error:
        return "", str(error).removeprefix(str(root / place.path)).strip(" .:")
    return hashlib.sha256(data).hexdigest(), ""


def _places(source: OwnImages, root: Path) -> tuple[list[Place], list[str]]:
    if isinstance(source, ImageList):
        return _listed(source, root)
    assert isinstance(source, ImageFolder), "there are two kinds of own images"
    return _foldered(root)


def _foldered(root: Path) -> tuple[list[Place], list[str]]:
    parts = parts_of(root)
    has_parts = set(parts.values()) != {""}
    places = [
        Place(path.relative_to(root).as_posix(), name, part if has_parts else "")
        for part, folder in parts.items()
        for name in _names(root / folder)
        for path in _files(root / folder / name)
    ]
    return places, sorted({name for folder in parts.values() for name in _names(root / folder)})


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _listed(source: ImageList, root: Path) -> tuple[list[Place], list[str]]:
    lists = {part: name for part, name in (("train", source.train), ("val", source.val), ("test", source.test)) if name}
    listings = {part: read_list(_list_file(root, name, part), root) for part, name in lists.items()}
    most = max(label for listing in listings.values() for _, label in listing) + 1
    names = [str(label) for label in range(most)]
    if source.classes:
        names = [line.strip() for line in _list_file(root, source.classes, "classes").read_text().splitlines() if line]
    if len(names) < most:
        raise InputError(f"data.classes names {len(names)} classes, but the lists have label {most - 1}. Add its name.")
    several = len(lists) > 1
    places = [
        Place(path, names[label], part if several else "")
        for part, listing in listings.items()
        for path, label in listing
    ]
    return places, sorted(names)


def _list_file(root: Path, name: str, key: str) -> Path:
    found = next((path for path in (root / name, Path(name)) if path.is_file()), None)
    if found is None:
        raise InputError(f"data.{key} is {name}, which is no file in {root}. Correct data.{key}.")
    return found


def problems(now: Inventory, before: Inventory | None, classes_may_vanish: bool) -> list[str]:
    """Say all that must not be trained on, in sentences that name the file and the remedy.

    Args:
        now, before: with their sides, see `Inventory.with_sides`; before is what the serving model was made of.
    """
    said = [f"{path} {why}; replace it or remove it." for path, why in now.unreadable[:NAMED]]
    if len(now.unreadable) > NAMED:
        said.append(f"{len(now.unreadable) - NAMED} further images cannot be read.")
    said += [f"Class {name} has no image; add some, or remove its folder." for name, n in now.counts.items() if not n]
    said += _capped(list(_copies(now)), "further images lie in two places.")
    if before is None:
        return said
    if not classes_may_vanish:
        said += [
            f"Class {name} had {before.counts[name]} images and is gone; restore it, or set "
            "retrain.classes_may_vanish: true."
            for name in changes(now, before).vanished
        ]
    return said + _capped(list(_leaks(now, before)), "further images were trained on and are held out now.")


def _capped(sentences: list[str], more: str) -> list[str]:
    return sentences[:NAMED] + ([f"{len(sentences) - NAMED} {more}"] if len(sentences) > NAMED else [])


def _copies(now: Inventory) -> Iterator[str]:
    """Name images that lie under two classes, or in two of train, val and test."""
    first: dict[str, Row] = {}
    for row in now.rows:
        other = first.setdefault(row.sha256, row)
        if other.name != row.name:
            yield f"{other.path} and {row.path} are the same image under two classes; remove one of them."
        elif other.part != row.part:
            yield f"{other.path} and {row.path} are the same image in {other.part} and {row.part}; keep one of them."


def _leaks(now: Inventory, before: Inventory) -> Iterator[str]:
    """Name images that the serving model was trained on and that would judge it now."""
    trained = {row.sha256 for row in before.rows if row.part in ("train", "")}
    for row in now.rows:
        if row.part == "test" and row.sha256 in trained:
            yield f"{row.path} is a test image, but the serving model was trained on it; move it back to train."


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


def hold(assignment: Path, inventory: Inventory, source: OwnImages, extend: bool) -> str:
    """Keep the held-out images those of the first day: new images of a class that has held-out ones are to train.

    A class without held-out images gets its sides by the rule of `longtail.data.assignment`.

    Args:
        assignment: data/assignment.csv.
        extend: let that rule give grown classes more held-out images too.

    Returns:
        what it did, in a sentence.

    Raises:
        InputError: the file is damaged.
    """
    own = {row.part for row in inventory.rows}
    if {"val", "test"} <= own:
        return "The held-out images are the data's own."
    recorded = read_assignment(assignment)
    if extend:
        return "Grown classes may have more held-out images."
    held = {row.name for row in inventory.rows if recorded.get(row.sha256) in ("val", "test")}
    fresh: dict[str, Side] = {
        row.sha256: "train"
        for row in inventory.rows
        if row.part in ("", "train") and row.name in held and row.sha256 not in recorded
    }
    write_assignment(assignment, {**recorded, **fresh})
    return f"{len(fresh):,} new images of known classes train; the held-out images stay as they are."
