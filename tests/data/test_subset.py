"""The choice of images against the LDAM code, and what `data` refuses."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longtail.data.pools import index_key
from longtail.data.subset import Cut, digest, streams
from longtail.spec import InputError

GOOD: dict[str, Any] = {
    "path": "data/raw",
    "profile": "exponential",
    "imbalance_factor": 10,
    "pareto_shape": None,
    "subset": "ldam",
    "seed": 0,
    "validation": {"source": "unused", "per_class": 20},
}


class ByContent(Cut):
    """A source of own images."""

    sides_by_content = True


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(0, 2**32 - 1))
def test_streams_are_those_of_the_legacy_shuffle(labels: list[int], seed: int) -> None:
    ordered = streams(torch.tensor(labels), 5, "ldam", seed)
    np.random.seed(seed)
    for label in range(5):
        indices = np.array([index for index in range(len(labels)) if labels[index] == label], dtype=np.int64)
        np.random.shuffle(indices)
        assert ordered[label].tolist() == indices.tolist()


def test_first_keeps_file_order() -> None:
    ordered = streams(torch.tensor([1, 0, 1, 0, 2]), 4, "first", None)
    assert [stream.tolist() for stream in ordered] == [[1, 3], [0, 2], [4], []]


@given(indices=st.lists(st.integers(0, 2**40), max_size=50))
def test_the_digest_of_indices_is_that_of_their_bytes(indices: list[int]) -> None:
    expected = hashlib.sha256(np.asarray(indices, dtype="<i8").tobytes()).hexdigest()
    assert digest(index_key(index) for index in indices) == expected


def test_numbers_may_be_written_as_strings() -> None:
    assert Cut.model_validate(GOOD | {"imbalance_factor": "1e2"}).imbalance_factor == 100


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"imbalance_factor": 0.01}, "imbalance_factor", "n_max / n_min; write 1 or more"),
        ({"imbalance_factor": None}, "imbalance_factor", "exponential needs it"),
        ({"profile": "natural", "validation": {"source": "holdout", "per_class": 1}}, "imbalance_factor", "ignore it"),
        ({"profile": "pareto"}, "pareto_shape", "pareto needs it"),
        ({"pareto_shape": 2.0}, "pareto_shape", "exponential would ignore it"),
        ({"subset": None}, "subset", "exponential needs it"),
        ({"subset": "first"}, "seed", "first would ignore it"),
        ({"seed": None}, "seed", "ldam needs it"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"profile": "natural", "imbalance_factor": None}, "validation", "natural leaves no image unused"),
        ({"validation": {"source": "official", "per_class": 20}}, "validation", "without validation images"),
        ({"profile": "zipf"}, "profile", "Input should be"),
        ({"path": ""}, "path", "at least 1 character"),
    ],
)
def test_what_is_wrong_or_would_be_ignored_is_refused(change: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Cut.model_validate(GOOD | change)
    (error,) = caught.value.errors()
    assert error["loc"] == (path,)
    assert reason in error["msg"]


def test_a_key_that_is_not_written_is_refused() -> None:
    for key in GOOD:
        with pytest.raises(ValidationError, match="Field required"):
            Cut.model_validate({k: value for k, value in GOOD.items() if k != key})


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({}, "validation", "fixed for ever"),
        (
            {"profile": "natural", "imbalance_factor": None, "validation": {"source": "holdout", "per_class": 1}},
            "subset",
            "natural would ignore it",
        ),
    ],
)
def test_own_images_refuse_what_their_sides_would_ignore(change: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ByContent.model_validate(GOOD | change)
    (error,) = caught.value.errors()
    assert error["loc"] == (path,)
    assert reason in error["msg"]


def test_the_smallest_class_is_the_head_of_a_profile() -> None:
    cut = Cut.model_validate(GOOD | {"imbalance_factor": 4})
    assert cut.class_counts([100, 30, 40], ["a", "b", "c"]) == [30, 15, 7]


def test_natural_keeps_everything() -> None:
    natural = {"profile": "natural", "imbalance_factor": None, "validation": {"source": "holdout", "per_class": 1}}
    assert Cut.model_validate(GOOD | natural).class_counts([7, 3], ["a", "b"]) == [7, 3]


@pytest.mark.parametrize("profile", ["exponential", "step", "pareto"])
def test_a_class_without_images_is_refused(profile: str) -> None:
    shape = 2.0 if profile == "pareto" else None
    cut = Cut.model_validate(GOOD | {"profile": profile, "imbalance_factor": 50, "pareto_shape": shape})
    assert min(cut.model_copy(update={"imbalance_factor": 40}).class_counts([100, 60, 40], ["a", "b", "c"])) == 1
    with pytest.raises(InputError, match=r"data\.imbalance_factor is 50, which leaves class [bc] no image.*at most 40"):
        cut.class_counts([100, 60, 40], ["a", "b", "c"])
