"""Cross entropy against its formula."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.losses.cross_entropy import CrossEntropy
from longtail.seeding import generator
from oracles import cross_entropy

ONES = torch.ones(3, dtype=torch.int64)
START = torch.tensor(0.0)


@given(st.integers(1, 6), st.integers(2, 9), st.floats(0.01, 50), st.integers(0, 10**6))
def test_is_the_formula(samples: int, classes: int, size: float, seed: int) -> None:
    draws = generator(seed, "logits")
    logits = size * torch.randn(samples, classes, dtype=torch.float64, generator=draws)
    labels = torch.randint(classes, (samples,), generator=draws)
    losses = CrossEntropy()(logits, labels, torch.ones(classes), START)
    expected = [cross_entropy(z, y) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_of_certain_and_of_undecided_logits() -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    losses = CrossEntropy()(logits, torch.tensor([0, 1]), ONES, START)
    torch.testing.assert_close(losses, torch.tensor([0.0, math.log(3)]))


def test_neither_counts_nor_progress_matter() -> None:
    logits, labels = torch.randn(4, 3, generator=generator(0, "logits")), torch.tensor([0, 1, 2, 0])
    plain = CrossEntropy()(logits, labels, ONES, START)
    assert CrossEntropy()(logits, labels, torch.tensor([500, 20, 1]), torch.tensor(0.9)).equal(plain)
