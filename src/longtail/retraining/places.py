"""Where a source of own images says that its images are. Unlike a training, it goes on behind whatever is wrong."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from longtail.data.image_folder import PARTS, SUFFIXES, ImageFolder, files_of, find_parts, folders_of, strays_of
from longtail.data.image_list import ImageList, find_list, lines_of, parse_line
from longtail.data.own_images import OwnImages
from longtail.spec import InputError


class Place(NamedTuple):
    """A file that is said to be an image of a class; `part` is train, val, test, or "" where the data has no parts."""

    path: str
    name: str
    part: str


@dataclass
class Places:
    """What is to be looked at.

    Args:
        classes: names of the classes that train.
        found: files, which may be no images.
        faults: path (or file and line) and what is wrong there, with the remedy.
    """

    classes: list[str]
    found: list[Place] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


def find_places(source: OwnImages, root: Path) -> Places:
    """List the images of a source.

    Raises:
        InputError: a folder cannot be listed, a list file is missing, or the parameters contradict the data.
    """
    try:
        if isinstance(source, ImageList):
            return _listed(source, root)
        assert isinstance(source, ImageFolder), "there are two kinds of own images"
        return _foldered(source, root)
    except OSError as error:
        raise InputError(
            f"data.path: {error.filename} cannot be listed ({error.strerror}); restore it, or correct data.path."
        ) from None


def _foldered(source: ImageFolder, root: Path) -> Places:
    parts, strangers = find_parts(root)
    _check(source, set(parts))
    places = Places([readable(name) for name in folders_of(root / parts["train"])])
    places.faults += [(name, "stands beside train/; the parts are called train, val and test") for name in strangers]
    for part, folder in parts.items():
        strays = [readable(path.relative_to(root).as_posix()) for path in strays_of(root / folder)]
        places.faults += [(path, "lies outside the class folders; move it into one") for path in strays]
        before = len(places.found)
        for name in folders_of(root / folder):
            _add_class(places, root, Path(folder, name), part if folder else "")
        if folder and len(places.found) == before:
            places.faults.append((folder, "holds no image; add some, or remove the folder"))
    return places


def _add_class(places: Places, root: Path, folder: Path, part: str) -> None:
    name = readable(folder.name)
    if name not in places.classes:
        places.faults.append((readable(folder.as_posix()), "is no class of train/; remove it, or add it there"))
    for file in files_of(root / folder):
        path = file.relative_to(root).as_posix()
        if readable(path) != path:
            places.faults.append((readable(path), "has a name that is not UTF-8; rename it"))
        elif file.suffix.lower() not in SUFFIXES:
            places.faults.append((path, f"is not one of {' '.join(SUFFIXES)}; convert it, or move it away"))
        else:
            places.found.append(Place(path, name, part))


def readable(path: str) -> str:
    """Return a path that can be printed and written: bytes of its name that are not UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _listed(source: ImageList, root: Path) -> Places:
    lists = {part: name for part in PARTS if (name := getattr(source, part)) is not None}
    _check(source, set(lists))
    places = Places([])
    read = {
        part: list(_read(places, find_list(root, name, part), root, part if len(lists) > 1 else ""))
        for part, name in lists.items()
    }
    if source.classes is None:
        places.classes += [str(label) for label in range(len({label for _, label, _ in read["train"]}))]
    else:
        places.classes += lines_of(find_list(root, source.classes, "classes"))
    last = len(places.classes) - 1
    for where, label, place in (entry for entries in read.values() for entry in entries):
        if label > last:
            places.faults.append((where, f"has label {label}; labels go from 0 to {last} without a gap, correct it"))
        else:
            places.found.append(place._replace(name=places.classes[label]))
    return places


def _read(places: Places, file: Path, root: Path, part: str) -> Iterator[tuple[str, int, Place]]:
    """Yield where a line stands, its label, and its image, whose class has no name yet; note the other lines."""
    lines = [(number, line) for number, line in enumerate(lines_of(file), start=1) if line.strip()]
    if not lines:
        places.faults.append((str(file), "lists no image; write one `path label` line per image"))
    for number, line in lines:
        where = f"{file} line {number}"
        try:
            path, label = parse_line(line, where, root, None)
        except InputError as error:
            places.faults.append((where, str(error).removeprefix(where).strip(" .")))
        else:
            yield where, label, Place(path, "", part)


def _check(source: OwnImages, parts: set[str]) -> None:
    source.check_test("test" in parts)
    source.check_validation("val" in parts)
