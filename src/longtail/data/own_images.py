"""What image folders and image lists share: files on disk whose side goes by content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from longtail.data.files import find, hash_files, places
from longtail.data.subset import Cut
from longtail.images.labeled import ImageFiles, LabeledImages
from longtail.spec import InputError

Listing = list[tuple[str, int]]  # path relative to the root, label


class OwnImages(Cut):
    """Images of the user's own, as files.

    Args:
        path: the folder with the images; looked for as it stands, under $LONGTAIL_DATA, and under data/raw.
        image_size: side in pixels of the square that images are brought to.
        memory_gigabytes: decoded images (all sides together) larger than this stay on disk; 0 always leaves them there.
        test_per_class: at most so many test images per class where the data has no test set; null where it has one.
    """

    sides_by_content: ClassVar[bool] = True

    image_size: int = Field(ge=1)
    memory_gigabytes: float = Field(ge=0)
    test_per_class: int | None = Field(ge=1)

    def find_root(self) -> Path:
        """Return the folder with the images.

        Raises:
            InputError: there is none.
        """
        root = find(self.path)
        if root is None or not root.is_dir():
            raise InputError(f"data.path: no such folder; looked in {places(self.path)}. Correct data.path.")
        return root

    def check_test(self, has_test: bool) -> None:
        """Refuse a missing or an ignored test_per_class.

        Raises:
            InputError: as said.
        """
        if has_test and self.test_per_class is not None:
            raise InputError(
                f"data.test_per_class is {self.test_per_class}, but the data has a test set of its own; set it to null."
            )
        if not has_test and self.test_per_class is None:
            raise InputError(
                "data.test_per_class is null, but the data has no test set; set it to a number, such as 20."
            )

    def check_validation(self, has_val: bool) -> None:
        """Refuse a validation set that is not there, and one that would be ignored.

        Raises:
            InputError: as said.
        """
        wanted = self.validation.source == "official"
        if wanted and not has_val:
            raise InputError(
                "data.validation.source is official, but the data has no validation set of its own; set it to holdout."
            )
        if has_val and not wanted:
            raise InputError(
                "data.validation.source is holdout, but the data has a validation set of its own; set it to official."
            )


def read_listing(root: Path, listing: Listing, num_classes: int, size: int) -> tuple[LabeledImages, tuple[str, ...]]:
    """Hash the files and order them by label and content, so that neither names nor dates decide anything.

    Returns:
        images on disk, whose ids are `sha256 path`; the sha256 of each.
    """
    hashes = hash_files(root, [path for path, _ in listing])
    rows = sorted((label, sha256, path) for (path, label), sha256 in zip(listing, hashes, strict=True))
    files = ImageFiles(root, tuple(path for _, _, path in rows), size)
    labels = torch.tensor([label for label, _, _ in rows], dtype=torch.int64)
    ids = tuple(f"{sha256} {path}" for _, sha256, path in rows)
    return LabeledImages(files, labels, num_classes, ids), tuple(sha256 for _, sha256, _ in rows)


def path_of(image_id: str) -> str:
    """Return the path in the id of an own image, `sha256 path`."""
    return image_id.split(" ", 1)[1]


def content_keys(contents: Sequence[str], labels: Sequence[int], size: int) -> list[bytes]:
    """Return what the digest is made of: content, label and the size that an image is brought to."""
    return [hashlib.sha256(f"{c} {label} {size}".encode()).digest() for c, label in zip(contents, labels, strict=True)]


def check_classes(classes: Sequence[str]) -> None:
    """Refuse fewer than two classes.

    Raises:
        InputError: as said.
    """
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise InputError(f"data.path: a classifier needs at least two classes, but there is only: {found}; add images.")
