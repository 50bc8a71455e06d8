"""Where data files are looked for, and how image files are hashed and decoded by all cores."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from longtail.images.decoding import decode
from longtail.images.labeled import ImageFiles
from longtail.spec import InputError

RAW = "data/raw"
LINE_EVERY = 15.0  # seconds between the lines that a long read prints

Result = TypeVar("Result")


def candidates(path: str, inside: str = "") -> list[Path]:
    """List where something may lie: at data.path, then under $LONGTAIL_DATA, then under data/raw.

    A relative folder is looked for in the working folder and in $DVC_ROOT: an experiment in a temporary copy of the
    repository then finds the data that git and DVC do not carry there.

    Args:
        path: data.path; with `inside` empty it is the thing itself, and is looked for under the other two by its name.
        inside: what is looked for in each folder, such as `cifar-100-python`.
    """
    shared = os.environ.get("LONGTAIL_DATA")
    folders = (
        [path] + [f for f in (shared, RAW) if f] if inside else [path, *(f"{f}/{path}" for f in (shared, RAW) if f)]
    )
    if Path(path).expanduser().is_absolute() and not inside:
        folders = [path]
    bases = [Path(), Path(os.environ.get("DVC_ROOT", ""))]
    return list(dict.fromkeys(base / Path(folder).expanduser() / inside for folder in folders for base in bases))


def find(path: str, inside: str = "") -> Path | None:
    """Return the first candidate that exists."""
    return next((candidate for candidate in candidates(path, inside) if candidate.exists()), None)


def places(path: str) -> str:
    """Say in words where `find` looked."""
    shared = os.environ.get("LONGTAIL_DATA")
    return f"data.path ({path}), LONGTAIL_DATA ({shared or 'not set'}) or {RAW}"


def hash_files(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the sha256 of each file's bytes.

    Raises:
        InputError: a file cannot be read.
    """
    return list(_in_parallel(partial(_hash, root), paths, "hashed"))


def _hash(root: Path, path: str) -> str:
    try:
        return hashlib.sha256((root / path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{root / path} cannot be read ({error.strerror}); restore the file or remove it.") from None


def read_images(files: ImageFiles) -> Tensor:
    """Decode all files into one (N, 3, size, size) uint8 tensor.

    Raises:
        InputError: a file is no image, or only the beginning of one.
    """
    images = torch.empty((len(files), 3, files.size, files.size), dtype=torch.uint8)
    for index, image in enumerate(_in_parallel(partial(_decode, files), files.paths, "decoded")):
        images[index] = image
    return images


def check_images(files: ImageFiles) -> None:
    """Decode every file once, so that a broken one stops the split and not the tenth hour of training.

    Raises:
        InputError: a file is no image, or only the beginning of one.
    """
    for _ in _in_parallel(partial(_decode, files), files.paths, "checked"):
        pass


def _decode(files: ImageFiles, path: str) -> Tensor:
    return decode(files.root / path, files.size, None)


def _in_parallel(work: Callable[[str], Result], paths: Sequence[str], verb: str) -> Iterator[Result]:
    spoke = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 1024):  # in blocks: a map over all would hold every result at once
            yield from pool.map(work, paths[start : start + 1024])
            if time.monotonic() - spoke > LINE_EVERY:
                spoke = time.monotonic()
                print(f"split: {verb} {min(start + 1024, len(paths)):,} of {len(paths):,} images", flush=True)
