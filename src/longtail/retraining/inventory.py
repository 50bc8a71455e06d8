"""What a source of own images holds today, and what is wrong or new in it. Nothing stops at the first.

Training reads data strictly: the first broken image ends it. Before a nightly training everything that is wrong is to
be said at once, so this looks at all files first.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from longtail.data.assignment import Side, read_assignment, write_assignment
from longtail.data.own_images import OwnImages
from longtail.images.decoding import decode_bytes
from longtail.retraining.collection import Changes, Inventory, Row, changes
from longtail.retraining.places import Place, find_places
from longtail.spec import InputError

__all__ = ["Changes", "Inventory", "Row", "changes", "hold", "problems", "take_inventory"]

NAMED = 10  # problems of a kind that are named; more are counted
BLOCK = 4096  # images that wait for a thread at a time


def take_inventory(source: OwnImages, decode: bool = True) -> Inventory:
    """Look at every image of a source: hash it and decode it, by all cores.

    Args:
        source: what to look at.
        decode: find images that cannot be decoded. Without it, which is much faster, they count as sound.

    Raises:
        InputError: the folder or a list is gone, or the parameters contradict the data.
    """
    root = source.find_root()
    places = find_places(source, root)

    def look(place: Place) -> tuple[str, str]:
        return _look(root / place.path, source.image_size if decode else None)

    looked: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(places.found), BLOCK):
            looked += pool.map(look, places.found[start : start + BLOCK])
    both = list(zip(places.found, looked, strict=True))
    rows = sorted(Row(sha256, place.name, place.path, place.part) for place, (sha256, why) in both if not why)
    broken = [(place.path, why) for place, (_, why) in both if why]
    return Inventory(tuple(rows), tuple(sorted(places.classes)), tuple(sorted(broken + places.faults)))


def _look(path: Path, size: int | None) -> tuple[str, str]:
    """Return the content's hash, and why it is no image ("" if it is one, or if there is no size to decode it to)."""
    try:
        data = path.read_bytes()
        if size is not None:
            decode_bytes(data, 3, size)
    except OSError as error:
        return "", f"cannot be read ({error.strerror}); restore it or remove it"
    except InputError as error:
        return "", f"is no readable image ({error}); replace it or remove it"
    return hashlib.sha256(data).hexdigest(), ""


def problems(now: Inventory, before: Inventory | None, classes_may_vanish: bool) -> list[str]:
    """Say all that must not be trained on, in sentences that name the file and the remedy.

    Args:
        now, before: with their sides, see `Inventory.with_sides`; before is what the serving model was made of.
        classes_may_vanish: whether a class that `before` has may be gone.
    """
    said = _capped([f"{path} {why}." for path, why in now.unreadable], "further images cannot be read.")
    said += _too_few(now) + _capped(_short_classes(now), "further classes have too few images.")
    said += _capped(list(_copies(now)), "further images lie in two places.")
    if before is None:
        return said
    if not classes_may_vanish:
        said += _capped(_gone(now, before), "further classes are gone.")
    return said + _capped(list(_leaks(now, before)), "further images were trained on and are held out now.")


def _capped(sentences: list[str], more: str) -> list[str]:
    return sentences[:NAMED] + ([f"{len(sentences) - NAMED} {more}"] if len(sentences) > NAMED else [])


def _too_few(now: Inventory) -> list[str]:
    if len(now.classes) > 1:
        return []
    found = ", ".join(now.classes) or "none"
    return [f"A classifier needs at least two classes, but there is only: {found}; add images, or correct data.path."]


def _short_classes(now: Inventory) -> list[str]:
    """Name classes that nothing can be learned of."""
    training = {row.name for row in now.rows if row.part in ("", "train")}
    held = "training image, since all of its images are held out"
    return [
        f"Class {name} has no {held if now.counts[name] else 'image'}; add some, or remove the class."
        for name in now.classes
        if name not in training
    ]


def _gone(now: Inventory, before: Inventory) -> list[str]:
    return [
        f"Class {name} had {before.counts[name]:,} images and is gone; restore it, or set "
        "retrain.classes_may_vanish: true."
        for name in changes(now, before).vanished
        if name not in now.classes  # a class that stands there empty is another problem, with another remedy
    ]


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


def hold(assignment: Path, inventory: Inventory, source: OwnImages, extend: bool) -> str:
    """Keep the held-out images those of the first day: new images of a class that has held-out ones are to train.

    A class without held-out images gets its sides by the rule of `longtail.data.assignment`.

    Args:
        assignment: data/assignment.csv.
        inventory: of today, with or without its sides.
        source: what it was taken of.
        extend: let that rule give grown classes more held-out images too.

    Returns:
        what it did, in a sentence.

    Raises:
        InputError: the file is damaged.
    """
    if source.test_per_class is None and source.validation.source == "official":
        return "The held-out images are the data's own."
    recorded = read_assignment(assignment)
    if extend:
        return "Grown classes may have more held-out images."
    ours = {"val"} if source.test_per_class is None else {"val", "test"}  # what the data does not bring
    held = {row.name for row in inventory.rows if recorded.get(row.sha256) in ours}
    fresh: dict[str, Side] = {
        row.sha256: "train"
        for row in inventory.rows
        if row.part in ("", "train") and row.name in held and row.sha256 not in recorded
    }
    if fresh:
        write_assignment(assignment, {**recorded, **fresh})
    return f"{len(fresh):,} new images of known classes train; the held-out images stay as they are."
