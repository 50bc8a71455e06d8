"""Named streams: equal names give equal draws, other names other draws, and nobody's state is touched."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from longtail.seeding import derive, generator, seeded

NAMES = st.lists(st.one_of(st.text(max_size=4), st.integers(-2, 300)), max_size=3)


def draw(seed: int, *names: str | int) -> torch.Tensor:
    return torch.randint(2**62, (8,), generator=generator(seed, *names))


@given(st.integers(0, 2**40), NAMES)
def test_equal_names_give_equal_draws(seed: int, names: list[str | int]) -> None:
    assert draw(seed, *names).equal(draw(seed, *names))


@given(st.integers(0, 3), NAMES, st.integers(0, 3), NAMES)
def test_other_names_or_seeds_give_other_draws(
    seed: int, names: list[str | int], other: int, others: list[str | int]
) -> None:
    assume((seed, *names) != (other, *others))
    assert not draw(seed, *names).equal(draw(other, *others))


def test_parts_of_a_name_do_not_run_together() -> None:
    names: list[tuple[str | int, ...]] = [
        (),
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        ("a1",),
        ("a", 1),
        ("a", "1"),
        ("", "ab"),
    ]
    seeds = {derive(seed, *name) for seed, name in itertools.product(range(12), names)}
    assert len(seeds) == 12 * len(names)


@given(st.integers(0, 2**40), NAMES)
def test_derived_seeds_are_ones_that_torch_takes(seed: int, names: list[str | int]) -> None:
    assert 0 <= derive(seed, *names) < 2**63


def test_another_process_draws_the_same() -> None:
    """Python salts hash() per process; a seed must not depend on it."""
    code = "from longtail.seeding import derive; print(derive(3, 'layers', 7))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == derive(3, "layers", 7)


def test_streams_of_neighbouring_epochs_are_uncorrelated() -> None:
    draws = torch.stack([torch.randn(4000, generator=generator(0, "epoch", epoch)) for epoch in range(20)])
    correlations = torch.corrcoef(draws) - torch.eye(20)
    assert correlations.abs().max() < 5 / 4000**0.5


def test_seeded_is_repeatable_inside_and_restores_outside() -> None:
    torch.manual_seed(5)
    expected_after = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "network"):
        first = torch.rand(3)
    assert torch.rand(3).equal(expected_after)
    with seeded(0, "network"):
        assert torch.rand(3).equal(first)
    with seeded(1, "network"):
        assert not torch.rand(3).equal(first)


def test_seeded_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "network"):
        torch.rand(3)
        raise KeyError
    assert torch.get_rng_state().equal(before)


def test_no_other_library_is_reseeded() -> None:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with seeded(0, "network"):
        torch.rand(3)
    generator(0, "epoch", 1)
    assert random.getstate() == python
    after = np.random.get_state(legacy=False)
    assert str(after) == str(numpy)
