"""Head classes by rank, and pairs by section 3 of the paper."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.learners.rsg import floor, head_classes, pairs
from longtail.seeding import generator


@pytest.mark.parametrize(
    ("counts", "share", "heads"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 2, 1], 0.2, [0, 1]),  # CIFAR-10's share
        ([9, 9, 9, 1, 1, 1], 0.5, [0, 1, 2]),  # step imbalance
        ([1, 5, 5, 5, 9], 0.4, [1, 4]),  # a tie: the lower label
        ([1, 2, 3], 0.3, []),
        ([1, 2, 3, 4], 0.99, [1, 2, 3]),
    ],
)
def test_head_classes_are_the_most_frequent(counts: list[int], share: float, heads: list[int]) -> None:
    assert head_classes(torch.tensor(counts), share).nonzero()[:, 0].tolist() == heads


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_percentage_of_100_classes_is_that_many(percent: int) -> None:
    assert int(head_classes(torch.arange(100), percent / 100).sum()) == percent
    assert floor(percent / 100 * 100) == percent


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 1))
def test_pairs_are_as_many_as_the_paper_says_and_of_a_head_and_a_tail(n_h: int, n_t: int, strength: float) -> None:
    rows = torch.randperm(n_h + n_t, generator=generator(n_h, n_t))
    heads, tails = rows[:n_h], rows[n_h:]
    of_heads, of_tails = (side.tolist() for side in pairs(heads, tails, strength))
    assert set(of_heads) <= set(heads.tolist())
    assert set(of_tails) <= set(tails.tolist())
    assert len(of_heads) == len(of_tails)
    fewer, more = sorted((n_h, n_t))
    if fewer == 0:
        assert not of_heads
        return
    assert len(of_tails) == max(floor(strength * more / fewer), 1) * fewer
    scarce, plenty = (of_tails, of_heads) if n_h >= n_t else (of_heads, of_tails)
    assert max(Counter(plenty).values()) == 1
    assert len(set(Counter(scarce).values())) == 1
    assert len(set(scarce)) == fewer
    assert len(set(zip(of_heads, of_tails, strict=True))) == len(of_heads)


@pytest.mark.parametrize(
    ("n_h", "n_t", "strength", "s_new"), [(80, 48, 1.0, 48), (126, 2, 0.01, 2), (126, 2, 1.0, 126)]
)
def test_published_settings_give_as_many(n_h: int, n_t: int, strength: float, s_new: int) -> None:
    heads, _ = pairs(torch.arange(n_h), torch.arange(n_t), strength)
    assert len(heads) == s_new
