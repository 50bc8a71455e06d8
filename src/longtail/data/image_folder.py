"""Own images in folders, one per class: `cat/1.jpg`, or `train/cat/1.jpg` with `test/` and perhaps `val/` beside it.

Without `test/`, a test set is chosen by content and for ever (see assignment.py); without `val/`, so is the validation
set of `holdout`. Labels follow the sorted names of the class folders. Images lie at any depth under their class.
"""

from pathlib import Path
from typing import Literal

from longtail.data.assignment import contents_of
from longtail.data.own_images import Listing, OwnImages, check_classes, content_keys, read_listing
from longtail.data.pools import IMAGENET_MEAN, IMAGENET_STD, Pools
from longtail.images.labeled import LabeledImages
from longtail.spec import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PARTS = ("train", "val", "test")


class ImageFolder(OwnImages):
    """A folder per class."""

    name: Literal["image_folder"] = "image_folder"

    def pools(self) -> Pools:
        """Read what the folder offers.

        Raises:
            InputError: no such folder, a class without images, a file that is no image, one image in two places.
        """
        root = self.find_root()
        present = parts_of(root)
        self.check_test("test" in present)
        self.check_validation("val" in present)
        classes = folders_of(root / present.get("train", ""))
        check_classes(classes)
        read = {}
        for part, folder in present.items():
            listing = list_images(root, folder, classes, complete=part == "train")
            if not listing:
                raise InputError(f"data.path: {root / folder} holds no image; add some, or remove the folder.")
            read[part] = read_listing(root, listing, len(classes), self.image_size)
        _refuse_copies({part: images for part, (images, _) in read.items()})
        train, contents = read["train"]
        val, test = (read[part][0] if part in read else None for part in ("val", "test"))
        keys = content_keys(contents, train.labels.tolist(), self.image_size)
        return Pools(train, val, test, tuple(classes), IMAGENET_MEAN, IMAGENET_STD, keys, contents)


def parts_of(root: Path) -> dict[str, str]:
    """Return part -> sub-folder; a flat folder is all `train`.

    `train/` means a part only if every other folder is one too: a train can also be a class.

    Raises:
        InputError: it means neither.
    """
    parts, strangers = find_parts(root)
    if strangers:
        raise InputError(
            f"data.path: {root / strangers[0]} stands beside train/; the parts are called train, val and test."
        )
    return parts


def find_parts(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return part -> sub-folder as `parts_of` does, and the folders beside train/ that are no part."""
    names = folders_of(root)
    strangers = sorted(set(names) - set(PARTS))
    if "train" not in names or (strangers and not folders_of(root / "train")):
        return {"train": ""}, []
    return {part: part for part in PARTS if part in names}, strangers


def list_images(root: Path, folder: str, classes: list[str], complete: bool) -> Listing:
    """List the images of one part with their labels.

    Args:
        folder: of the part, relative to the root.
        complete: whether every class must have an image here.

    Raises:
        InputError: a folder that is no class, a class without images, an image without a class, no image.
    """
    if stray := strays_of(root / folder):
        raise InputError(f"data.path: {stray[0]} lies outside the class folders; move it into one.")
    unknown = sorted(set(folders_of(root / folder)) - set(classes))
    if unknown:
        raise InputError(f"data.path: {root / folder / unknown[0]} is no class of train/; remove it, or add it there.")
    listing: Listing = []
    for label, name in enumerate(classes):
        images = _images(root / folder / name)
        if complete and not images:
            raise InputError(f"data.path: class folder {root / folder / name} holds no image; add some, or remove it.")
        listing += [(path.relative_to(root).as_posix(), label) for path in images]
    return listing


def folders_of(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def strays_of(folder: Path) -> list[Path]:
    """Return the images that lie in the folder of a part, outside its class folders."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir())


def files_of(folder: Path) -> list[Path]:
    """Return all files at any depth under a class folder, sorted, without hidden ones."""
    entries = sorted(entry for entry in folder.rglob("*") if not entry.is_dir())
    return [file for file in entries if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _images(folder: Path) -> list[Path]:
    """List a class's images; unknown files are refused, since a format that nobody reads would silently be missing."""
    files = files_of(folder)
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise InputError(f"data.path: {file} is not one of {' '.join(SUFFIXES)}; convert it, or move it away.")
    return files


def _refuse_copies(parts: dict[str, LabeledImages]) -> None:
    """Refuse one content under two labels, or in two parts that should share nothing."""
    rows = [
        (part, *id_.split(" ", 1), label)
        for part, images in parts.items()
        for id_, label in zip(images.ids, images.labels.tolist(), strict=True)
    ]
    contents_of((sha256, label, path) for _, sha256, path, label in rows)
    home: dict[str, tuple[str, str]] = {}
    for part, sha256, path, _ in rows:
        other, other_path = home.setdefault(sha256, (part, path))
        if other != part:
            raise InputError(f"data.path: {other_path} and {path} are the same image; keep it in {part}/ alone.")
