"""Own images by text files of `path label` lines, as ImageNet-LT, Places-LT and iNaturalist ship them.

Without a test list a test set is chosen by content and for ever, without a validation list so is the validation set of
`holdout` (see assignment.py). Published lists are taken as they are.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from longtail.data.files import find
from longtail.data.own_images import Listing, OwnImages, check_classes, content_keys, path_of, read_listing
from longtail.data.pools import IMAGENET_MEAN, IMAGENET_STD, Pools
from longtail.images.labeled import LabeledImages
from longtail.spec import InputError


class ImageList(OwnImages):
    """Lists of images.

    Args:
        train, val, test: list files, looked for under data.path, then like data.path itself; val and test may be null.
        classes: a file with one class name per line, or null: then classes are called 0, 1, …
    """

    name: Literal["image_list"] = "image_list"
    train: str = Field(min_length=1)
    val: str | None = Field(min_length=1)
    test: str | None = Field(min_length=1)
    classes: str | None = Field(min_length=1)

    def pools(self) -> Pools:
        """Read what the lists offer.

        Raises:
            InputError: a list or an image is missing, a line makes no sense, a label is out of range or has no image,
                an image is in two lists.
        """
        root = self.find_root()
        self.check_test(self.test is not None)
        self.check_validation(self.val is not None)
        listing = read_list(find_list(root, self.train, "train"), root)
        names = self._names(root, listing)
        val = self._part(root, "val", self.val, len(names))
        test = self._part(root, "test", self.test, len(names))
        train, contents = read_listing(root, listing, len(names), self.image_size)
        _refuse_overlap({"train": train, "val": val, "test": test})
        keys = content_keys(contents, train.labels.tolist(), self.image_size)
        return Pools(train, val, test, names, IMAGENET_MEAN, IMAGENET_STD, keys, contents)

    def _names(self, root: Path, listing: Listing) -> tuple[str, ...]:
        """Return the class names; every label below their number has an image in the train list."""
        labels = {label for _, label in listing}
        if self.classes is None:
            names = [str(label) for label in range(len(labels))]
        else:
            names = lines_of(find_list(root, self.classes, "classes"))
        beyond, missing = labels - set(range(len(names))), sorted(set(range(len(names))) - labels)
        if beyond and self.classes is not None:
            raise InputError(
                f"data.classes names {len(names)} classes, but data.train has label {max(beyond)}; mend one."
            )
        if missing:
            raise InputError(
                f"data.train has no image of class {names[missing[0]]} (label {missing[0]}); labels count from 0, and "
                "each class needs an image."
            )
        check_classes(names)
        return tuple(names)

    def _part(self, root: Path, key: str, name: str | None, num_classes: int) -> LabeledImages | None:
        if name is None:
            return None
        listing = read_list(find_list(root, name, key), root, num_classes)
        return read_listing(root, listing, num_classes, self.image_size)[0]


def read_list(path: Path, root: Path, num_classes: int | None = None) -> Listing:
    """Read `path label` lines; a path may hold spaces, empty lines are passed over.

    Args:
        num_classes: labels must be smaller, where it is known.

    Raises:
        InputError: a line is no such pair, its label is out of range, or its image is not under root.
    """
    listing: Listing = []
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            listing.append(parse_line(line, f"{path} line {number}", root, num_classes))
    if not listing:
        raise InputError(f"{path} lists no image; write one `path label` line per image.")
    return listing


def parse_line(line: str, where: str, root: Path, num_classes: int | None) -> tuple[str, int]:
    """Return path and label of a `path label` line.

    Args:
        where: what the message of an error begins with.
        num_classes: the label must be smaller, where it is known.

    Raises:
        InputError: it is no such pair, its label is out of range, or its image is not under root.
    """
    *image, label = line.rsplit(maxsplit=1)
    if not image or not re.fullmatch("-?[0-9]{1,18}", label):
        raise InputError(f"{where} is {line.strip()!r}; write `path label`, the label a whole number.")
    if int(label) < 0 or (num_classes is not None and int(label) >= num_classes):
        most = "" if num_classes is None else f" to {num_classes - 1}"
        raise InputError(f"{where} has label {label}; labels go from 0{most}.")
    if not (root / image[0].strip()).is_file():
        raise InputError(f"{where} names {image[0].strip()}, which is not under {root}; correct the list or data.path.")
    return image[0].strip(), int(label)


def _refuse_overlap(lists: dict[str, LabeledImages | None]) -> None:
    home: dict[str, str] = {}
    for key, images in lists.items():
        for path in map(path_of, images.ids if images else ()):
            if home.setdefault(path, key) != key:
                raise InputError(f"data.{home[path]} and data.{key} both list {path}; keep it in one of them.")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        InputError: it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); write it in UTF-8.") from None


def find_list(root: Path, name: str, key: str) -> Path:
    """Look for a list file under root, then like data.path itself.

    Args:
        key: the parameter that names it.

    Raises:
        InputError: there is none.
    """
    found = root / name if (root / name).is_file() else find(name)
    if found is None or not found.is_file():
        raise InputError(
            f"data.{key} is {name}, but there is no such file under {root}, LONGTAIL_DATA or here; correct it."
        )
    return found
