"""From a source to the split that every method is given: choose sides, cut the tail, hold validation out."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from longtail.data.assignment import Side, assign, contents_of, read_assignment, write_assignment
from longtail.data.files import check_images, read_images
from longtail.data.own_images import OwnImages, path_of
from longtail.data.pools import Pools, take
from longtail.data.sources import Source
from longtail.data.subset import digest, streams
from longtail.data.validation import SMALLEST_CLASS, Validation, holdout_size
from longtail.images.labeled import ImageFiles, LabeledImages, LongTailSplit
from longtail.spec import InputError


def build_split(source: Source, assignment: Path) -> LongTailSplit:
    """Build the split of a source; equal files and parameters give equal splits on every machine.

    Args:
        assignment: `data/assignment.csv`. Images of one's own that it does not hold yet are added to it once all chosen
            ones were read; other sources leave it alone.

    Raises:
        InputError: the data are missing, damaged, or contradict the parameters.
    """
    pools, record = source.pools(), None
    if pools.contents is not None and (pools.val is None or pools.test is None):
        pools, record = _divide(source, pools, read_assignment(assignment), assignment)
    kept, val = _cut(source, pools)
    assert pools.test is not None
    train, test = take(pools.train, kept), pools.test
    if isinstance(source, OwnImages):
        train, val, test = _settle([train, val, test], source.memory_gigabytes)
    if record is not None:
        write_assignment(assignment, record)
    identity = digest(pools.keys[index] for index in kept.tolist())
    return LongTailSplit(train, val, test, pools.classes, pools.mean, pools.std, identity)


def _divide(source: Source, pools: Pools, recorded: dict[str, Side], assignment: Path) -> tuple[Pools, dict[str, Side]]:
    """Take the sides that the source does not come with out of its train pool, by content.

    Returns:
        pools with all three sides; the record with today's images in it.
    """
    assert isinstance(source, OwnImages) and pools.contents is not None
    paths = [path_of(image_id) for image_id in pools.train.ids]
    contents = contents_of(zip(pools.contents, pools.train.labels.tolist(), paths, strict=True))
    test_per_class = source.test_per_class or 0
    val_per_class = source.validation.per_class if pools.val is None else 0
    sides = assign(contents, recorded, test_per_class, val_per_class)
    on: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, sha256 in enumerate(pools.contents):
        on[sides[sha256]].append(index)
    for side, given in (("val", pools.val), ("test", pools.test)):
        if given is not None and on[side]:
            path = paths[on[side][0]]
            raise InputError(
                f"{assignment} records {path} as {side}, but it is among the training images; move it to {side}."
            )
    divided = replace(
        pools,
        train=take(pools.train, torch.tensor(on["train"], dtype=torch.int64)),
        val=_side(pools.train, on["val"], val_per_class) if pools.val is None else pools.val,
        test=_side(pools.train, on["test"], test_per_class) if pools.test is None else pools.test,
        keys=[pools.keys[index] for index in on["train"]],
        contents=tuple(pools.contents[index] for index in on["train"]),
    )
    return divided, {**recorded, **sides}


def _side(images: LabeledImages, indices: list[int], per_class: int) -> LabeledImages:
    return _first_per_class(take(images, torch.tensor(indices, dtype=torch.int64)), per_class)


def _first_per_class(images: LabeledImages, per_class: int) -> LabeledImages:
    ordered = streams(images.labels, images.num_classes, "first", None)
    return take(images, torch.cat([stream[:per_class] for stream in ordered]))


def _cut(source: Source, pools: Pools) -> tuple[Tensor, LabeledImages]:
    """Cut the tail out of the train pool.

    Returns:
        indices of the training images in the pool, class by class; the validation images.
    """
    ordered = streams(pools.train.labels, len(pools.classes), source.subset, source.seed)
    sizes = [len(stream) for stream in ordered]
    if min(sizes) == 0:
        raise InputError(
            f"data.path: class {pools.classes[sizes.index(0)]} has no training image, since all of its images "
            "are on other sides; add some, or remove the class."
        )
    kept = stops = source.class_counts(sizes, pools.classes)
    if pools.val is None:
        kept, stops = _bounds(kept, source.validation)
    cut = [stream.tensor_split([start, stop]) for stream, start, stop in zip(ordered, kept, stops, strict=True)]
    val = take(pools.train, torch.cat([held for _, held, _ in cut]))
    if pools.val is not None:
        val = _first_per_class(pools.val, source.validation.per_class)
    _check_val(val, source.validation)
    return torch.cat([trained for trained, _, _ in cut]), val


def _bounds(counts: list[int], validation: Validation) -> tuple[list[int], list[int]]:
    """Return where training ends and where validation ends in the stream of each class."""
    if validation.source == "holdout":
        return [count - holdout_size(count, validation.per_class) for count in counts], counts
    return counts, [count + validation.per_class for count in counts]


def _check_val(val: LabeledImages, validation: Validation) -> None:
    if len(val) or not validation.per_class:
        return
    reason = {
        "unused": "the profile leaves no image unused",
        "holdout": f"no class has {SMALLEST_CLASS} images to spare one (or data/assignment.csv trains on all)",
        "official": "the validation set is empty",
    }[validation.source]
    raise InputError(
        f"data.validation.per_class is {validation.per_class}, but {reason}; set it to 0, or change "
        "data.validation.source."
    )


def _settle(parts: list[LabeledImages], memory_gigabytes: float) -> list[LabeledImages]:
    """Decode images that fit into memory; check the others, which stay on disk."""
    files = [part.images for part in parts if isinstance(part.images, ImageFiles)]
    if sum(len(part) * 3 * part.size**2 for part in files) > memory_gigabytes * 1e9:
        for part in files:
            check_images(part)
        return parts
    return [replace(part, images=read_images(its_files)) for part, its_files in zip(parts, files, strict=True)]
