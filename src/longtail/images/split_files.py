"""The split on disk, `data/split/`: the same bytes for the same split.

Images in memory are `{train,val,test}.safetensors` with `images` (N, C, H, W) uint8, `labels` (N,) int64 and `ids`, a
JSON list as uint8. Images on disk are `{train,val,test}.csv` with their path under the root, label and sha256.
`classes.json` says the rest. This file reads no source, so that a stage after `split` does not depend on the readers.
"""

import csv
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from longtail.images.labeled import ImageFiles, LabeledImages, LongTailSplit
from longtail.spec import InputError

SIDES = ("train", "val", "test")
COLUMNS = ["path", "label", "sha256"]
SHARED = "$LONGTAIL_DATA"


def save_split(split: LongTailSplit, folder: Path) -> None:
    """Write a split into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        _save_images(getattr(split, side), folder / side)
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in _describe(split).items()]
    (folder / "classes.json").write_text("{\n  " + ",\n  ".join(lines) + "\n}\n", encoding="utf-8")


def load_split(folder: Path) -> LongTailSplit:
    """Read a split back; images in memory are mapped, not copied.

    Raises:
        InputError: there is no split, or the images that it lists are not on this machine.
    """
    if not (folder / "classes.json").is_file():
        raise InputError(f"{folder} holds no split; run the split stage first (make run).")
    about = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    classes, mean, std = (tuple(about[key]) for key in ("classes", "mean", "std"))
    root = None if about["root"] is None else _resolve(about["root"])
    train, val, test = (_load_images(folder / side, len(classes), about["image_size"], root) for side in SIDES)
    return LongTailSplit(train, val, test, classes, mean, std, about["digest"])


def _describe(split: LongTailSplit) -> dict[str, object]:
    images = split.train.images
    return {
        "classes": split.classes,
        "mean": split.mean,
        "std": split.std,
        "channels": len(split.mean),
        "image_size": images.size if isinstance(images, ImageFiles) else images.shape[-1],
        "digest": split.digest,
        "root": _portable(images.root) if isinstance(images, ImageFiles) else None,
        "class_counts": {side: getattr(split, side).class_counts.tolist() for side in SIDES},
    }


def _save_images(images: LabeledImages, stem: Path) -> None:
    if isinstance(images.images, ImageFiles):
        rows = [(id_.split(" ", 1), label) for id_, label in zip(images.ids, images.labels.tolist(), strict=True)]
        with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *((path, label, sha256) for (sha256, path), label in rows)])
    else:
        ids = torch.frombuffer(bytearray(json.dumps(list(images.ids)).encode()), dtype=torch.uint8)
        tensors = {"images": images.images.contiguous(), "labels": images.labels.contiguous(), "ids": ids}
        save_file(tensors, stem.with_suffix(".safetensors"))


def _load_images(stem: Path, classes: int, size: int, root: Path | None) -> LabeledImages:
    """Read one side; `root` is None where the images are in memory."""
    if root is None:
        tensors = load_file(stem.with_suffix(".safetensors"))
        ids = json.loads(tensors["ids"].numpy().tobytes())
        return LabeledImages(tensors["images"], tensors["labels"], classes, ids)
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = ImageFiles(root, tuple(row["path"] for row in rows), size)
    labels = torch.tensor([int(row["label"]) for row in rows], dtype=torch.int64)
    return LabeledImages(files, labels, classes, [f"{row['sha256']} {row['path']}" for row in rows])


def _portable(root: Path) -> str:
    """Write a folder so that other machines and temporary copies of the repository find it again.

    Returns:
        a path relative to the repository if it lies there, else `$LONGTAIL_DATA/…`, else an absolute path.
    """
    absolute = Path(os.path.abspath(root))  # noqa: PTH100  resolve() would follow DVC's symlinks out of the repository
    bases = [(str(Path.cwd()), ""), (os.environ.get("DVC_ROOT", ""), ""), (os.environ.get("LONGTAIL_DATA", ""), SHARED)]
    for base, prefix in bases:
        if base and absolute.is_relative_to(Path(base).absolute()):
            return (Path(prefix) / absolute.relative_to(Path(base).absolute())).as_posix()
    return absolute.as_posix()


def _resolve(written: str) -> Path:
    """Find the folder that `_portable` wrote.

    Raises:
        InputError: it is not on this machine.
    """
    path = Path(written.replace(SHARED, os.environ.get("LONGTAIL_DATA", SHARED), 1))
    for base in (Path(), Path(os.environ.get("DVC_ROOT", ""))):
        if (base / path).is_dir():
            return base / path
    raise InputError(
        f"The split lists images under {written}, which is not here: fetch it (dvc pull), or set LONGTAIL_DATA."
    )
