"""Head classes against the published counts of the CIFAR sets and a definition in plain loops."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from longtail.features.head_classes import Largest, ManyShot, Share


def _exponential(largest: int, num_classes: int, imbalance: int) -> torch.Tensor:
    return torch.tensor([int(largest * (1 / imbalance) ** (k / (num_classes - 1))) for k in range(num_classes)])


@pytest.mark.parametrize(
    ("num_classes", "imbalance", "many", "share"),
    [
        (10, 10, 10, 7),
        (10, 50, 9, 6),
        (10, 100, 8, 5),
        (10, 200, 7, 4),
        (100, 10, 69, 72),
        (100, 50, 41, 54),
        (100, 100, 35, 48),
        (100, 200, 30, 42),
    ],
)
def test_published_head_sets_of_cifar(num_classes: int, imbalance: int, many: int, share: int) -> None:
    counts = _exponential(50_000 // num_classes, num_classes, imbalance)
    assert ManyShot(above=100).mask(counts).tolist() == [k < many for k in range(num_classes)]
    assert Share(share=0.9).mask(counts).tolist() == [k < share for k in range(num_classes)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.01, 1))
@example([9, 1], 0.9)  # reached exactly
@example([3, 3, 3], 0.5)
def test_share_is_the_smallest_prefix_that_reaches_it(counts: list[int], share: float) -> None:
    order = sorted(range(len(counts)), key=lambda k: (-counts[k], k))  # ties: the lower label
    head: set[int] = set()
    for k in order:
        if sum(counts[j] for j in head) < share * sum(counts):
            head.add(k)
    assert Share(share=share).mask(torch.tensor(counts)).tolist() == [k in head for k in range(len(counts))]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_largest(counts: list[int]) -> None:
    assert Largest().mask(torch.tensor(counts)).tolist() == [n == max(counts) for n in counts]
