"""The balanced union: every class as large as the largest, every sample used as often as the next."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.features.balanced_rows import balanced_union


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 63), st.integers(0, 9))
def test_union_gives_every_class_as_many_rows(counts: list[int], heads: int, seed: int) -> None:
    compare(counts, heads, seed)


def compare(counts: list[int], heads: int, seed: int) -> None:
    """Compare a union with the counts that GLAG section 4.2 asks for; bit k of heads: class k is a head class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    is_head = torch.tensor([bool(heads >> k & 1) for k in range(len(counts))])
    union = balanced_union(labels, is_head, torch.Generator().manual_seed(seed))
    assert torch.bincount(union.labels).tolist() == [max(counts)] * len(counts)
    real = ~union.is_drawn
    assert union.sources[real].tolist() == list(range(len(labels)))  # every real row, once
    assert torch.equal(union.labels[real], labels)
    for k, n in enumerate(counts):
        sources = union.sources[union.is_drawn & (union.labels == k)]
        if is_head[k]:
            assert (sources == -1).all()
        else:  # floor((n_max - n_k) / n_k) per sample, the remainder to distinct samples
            assert (sources >= 0).all()
            uses = torch.bincount(sources, minlength=len(labels))[labels == k]
            least = (max(counts) - n) // n
            assert set(uses.tolist()) <= {least, least + 1}
            assert uses.sum() == max(counts) - n


def test_the_remainder_goes_to_random_samples() -> None:
    labels = torch.tensor([0] * 5 + [1] * 4)
    unions = (balanced_union(labels, torch.tensor([False, False]), torch.Generator().manual_seed(s)) for s in range(40))
    assert {int(union.sources[-1]) for union in unions} == {5, 6, 7, 8}
