"""What holds for every split: sides share nothing, equal inputs give equal splits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from longtail.data.digits import Digits
from longtail.data.split import build_split
from longtail.data.validation import holdout_size
from longtail.spec import InputError

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "test_per_class": 30,
    "profile": "exponential",
    "imbalance_factor": 36,
    "pareto_shape": None,
    "subset": "ldam",
    "seed": 0,
    "validation": {"source": "unused", "per_class": 20},
}
NATURAL = {"profile": "natural", "imbalance_factor": None}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"subset": "first", "seed": None},
    {"seed": 7},
    {"profile": "step", "imbalance_factor": 10},
    {"profile": "pareto", "imbalance_factor": 20, "pareto_shape": 2.0},
    {"validation": {"source": "holdout", "per_class": 6}},
    {"validation": {"source": "holdout", "per_class": 0}},
    {"validation": {"source": "unused", "per_class": 0}},
    NATURAL | {"validation": {"source": "holdout", "per_class": 20}},
    {"imbalance_factor": 1, "validation": {"source": "holdout", "per_class": 20}},
]
NOWHERE = Path("assignment.csv")


@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_sides_share_no_image_and_counts_follow_the_rules(change: dict[str, Any]) -> None:
    source = Digits.model_validate(GOOD | change)
    split = build_split(source, NOWHERE)
    ids = [*split.train.ids, *split.val.ids, *split.test.ids]
    assert len(set(ids)) == len(ids)
    pool = source.pools().train.class_counts.tolist()
    cut, per_class = source.class_counts(pool, split.classes), source.validation.per_class
    if source.validation.source == "holdout":
        val = [holdout_size(n, per_class) for n in cut]
        train = [n - held for n, held in zip(cut, val, strict=True)]
    else:
        train, val = cut, [min(per_class, available - n) for available, n in zip(pool, cut, strict=True)]
    assert split.class_counts.tolist() == train
    assert split.val.class_counts.tolist() == val
    assert split.train.labels.tolist() == sorted(split.train.labels.tolist())


@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_equal_parameters_give_equal_splits(change: dict[str, Any]) -> None:
    one, two = (build_split(Digits.model_validate(GOOD | change), NOWHERE) for _ in range(2))
    assert one.digest == two.digest
    for side in ("train", "val", "test"):
        assert torch.equal(getattr(one, side).images, getattr(two, side).images)
        assert getattr(one, side).ids == getattr(two, side).ids


def test_each_choice_of_images_has_its_own_digest() -> None:
    chosen = [VARIANTS[index] for index in (0, 1, 2, 3, 4, 5, 8, 9)]
    digests = {build_split(Digits.model_validate(GOOD | change), NOWHERE).digest for change in chosen}
    assert len(digests) == len(chosen)


def test_validation_follows_training_in_the_same_stream() -> None:
    more = build_split(Digits.model_validate(GOOD | {"imbalance_factor": 4}), NOWHERE)
    less = build_split(Digits.model_validate(GOOD), NOWHERE)
    for label in range(1, 10):
        long = [name for name, its in zip(more.train.ids, more.train.labels.tolist(), strict=True) if its == label]
        short = [
            name
            for side in (less.train, less.val)
            for name, its in zip(side.ids, side.labels.tolist(), strict=True)
            if its == label
        ]
        common = min(len(long), len(short))
        assert long[:common] == short[:common]


def test_holdout_is_taken_out_of_the_cut_class() -> None:
    whole = build_split(Digits.model_validate(GOOD | {"validation": {"source": "unused", "per_class": 0}}), NOWHERE)
    held = build_split(Digits.model_validate(GOOD | {"validation": {"source": "holdout", "per_class": 20}}), NOWHERE)
    assert set(held.train.ids) | set(held.val.ids) == set(whole.train.ids)


def test_unused_validation_that_would_be_empty_is_refused() -> None:
    balanced = {"imbalance_factor": 1, "path": "data/raw"}
    pools = Digits.model_validate(GOOD | balanced).pools()
    spare = sum(pools.train.class_counts.tolist()) - 10 * 144
    assert len(build_split(Digits.model_validate(GOOD | balanced), NOWHERE).val) == spare
    with pytest.raises(InputError, match=r"data\.imbalance_factor is 145, which leaves class 9 no image"):
        build_split(Digits.model_validate(GOOD | {"imbalance_factor": 145}), NOWHERE)
