"""Samplers: frequencies from the formula, the class-aware cycle from its definition."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from longtail.loading.sampling import (
    Balanced,
    BalancedSampler,
    Deferred,
    Fixed,
    Sampler,
    class_weights,
    effective_number,
    epoch_indices,
    epoch_length,
)
from longtail.seeding import generator

COUNTS = [40, 0, 9, 3, 1]
DRS = Deferred(beta=0.99, start=0.8)
NAMES: tuple[Sampler, ...] = (*get_args(Fixed), DRS)


def labels_of(counts: list[int]) -> Tensor:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator(0, "labels"))]


def draw(name: Sampler, counts: list[int], length: int, seed: int = 0, progress: float = 0.0) -> Tensor:
    return epoch_indices(name, labels_of(counts), torch.tensor(counts), length, generator(seed, str(name)), progress)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any), st.integers(1, 200), st.sampled_from(NAMES))
def test_an_epoch_has_the_length_asked_for_and_valid_indices(counts: list[int], length: int, name: Sampler) -> None:
    indices = draw(name, counts, length)
    assert indices.dtype == torch.int64 and indices.shape == (length,)
    assert indices.min() >= 0 and indices.max() < sum(counts)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any), st.integers(0, 100))
def test_instance_balanced_shows_every_image_once(counts: list[int], seed: int) -> None:
    assert draw("instance_balanced", counts, sum(counts), seed).sort().values.tolist() == list(range(sum(counts)))


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_draw_equally_and_others_do_not(name: Sampler) -> None:
    assert torch.equal(draw(name, COUNTS, 53, 1), draw(name, COUNTS, 53, 1))
    assert not torch.equal(draw(name, COUNTS, 53, 1), draw(name, COUNTS, 53, 2))


@pytest.mark.parametrize("name, power", [("square_root", 0.5), ("class_balanced", 0.0), ("reversed", -1.0)])
def test_classes_are_drawn_by_the_power_of_their_count(name: Sampler, power: float) -> None:
    length, labels = 20_000, labels_of(COUNTS)
    weights = [n**power if n else 0.0 for n in COUNTS]
    indices = draw(name, COUNTS, length)
    drawn = torch.bincount(labels[indices], minlength=len(COUNTS)).tolist()
    for observed, weight in zip(drawn, weights, strict=True):
        p = weight / sum(weights)
        assert abs(observed - length * p) <= 5 * (length * p * (1 - p)) ** 0.5
    images = torch.bincount(indices, minlength=sum(COUNTS))
    for label, n in enumerate(COUNTS):
        if n:
            mean = drawn[label] / n
            assert ((images[labels == label] - mean).abs() <= 5 * mean**0.5).all()  # uniform inside the class


@settings(max_examples=50)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=8).filter(any), st.integers(1, 150), st.integers(0, 50))
def test_class_aware_cycles_over_classes_and_over_their_images(counts: list[int], length: int, seed: int) -> None:
    labels, indices = labels_of(counts), draw("class_aware", counts, length, seed).tolist()
    visits = [indices[i : i + 4] for i in range(0, length, 4)]
    visited = [int(labels[visit[0]]) for visit in visits]
    for visit, label in zip(visits, visited, strict=True):
        assert all(labels[index] == label for index in visit)  # four in a row from one class
    present = sum(n > 0 for n in counts)
    for start in range(0, len(visited), present):
        turn = visited[start : start + present]
        assert len(set(turn)) == len(turn)  # every class once before any comes again
    for label, n in enumerate(counts):
        shown = [index for index in indices if labels[index] == label]
        for start in range(0, len(shown), max(n, 1)):
            cycle = shown[start : start + n]
            assert len(set(cycle)) == len(cycle)  # every image of the class once before any comes again


def test_class_aware_shuffles_each_cycle_anew() -> None:
    length = 4 * 2 * 30
    indices, labels = draw("class_aware", [8, 8], length), labels_of([8, 8])
    shown = indices[labels[indices] == 0]
    cycles = {tuple(cycle) for cycle in shown[: len(shown) // 8 * 8].view(-1, 8).tolist()}
    assert len(cycles) > 10
    turns = {tuple(turn) for turn in labels[indices[::4]].view(-1, 2).tolist()}
    assert turns == {(0, 1), (1, 0)}


def test_class_aware_orders_are_uniform() -> None:
    """All 6 orders of a class of 3 images come equally often."""
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(300):
        order = tuple(draw("class_aware", [3], 3, seed).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    assert all(abs(times - 50) <= 5 * 50**0.5 for times in seen.values())


def frequencies(name: Sampler, progress: float, length: int = 20_000) -> list[float]:
    drawn = labels_of(COUNTS)[draw(name, COUNTS, length, progress=progress)]
    return (torch.bincount(drawn, minlength=len(COUNTS)) / length).tolist()


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.7, 1.0])
def test_progressively_balanced_moves_from_images_to_classes(progress: float) -> None:
    present = sum(n > 0 for n in COUNTS)
    for n, observed in zip(COUNTS, frequencies("progressively_balanced", progress), strict=True):
        wanted = (1 - progress) * n / sum(COUNTS) + progress / present if n else 0.0
        assert abs(observed - wanted) <= 5 * (wanted * (1 - wanted) / 20_000) ** 0.5


def test_deferred_sampling_really_changes_what_is_drawn() -> None:
    """The official code builds a sampler that its loader never uses: before and after are then alike."""
    before = draw(DRS, COUNTS, sum(COUNTS), progress=0.79)
    assert before.sort().values.tolist() == list(range(sum(COUNTS)))
    weights = [n / ((1 - 0.99**n) / (1 - 0.99)) if n else 0.0 for n in COUNTS]
    for observed, weight in zip(frequencies(DRS, 0.8), weights, strict=True):
        p = weight / sum(weights)
        assert abs(observed - p) <= 5 * (p * (1 - p) / 20_000) ** 0.5


def test_deferred_sampling_has_its_limits_in_its_neighbours() -> None:
    counts = torch.tensor(COUNTS)
    inverse = class_weights(Deferred(beta=1, start=0), counts, 0.5)
    assert inverse.tolist() == class_weights("class_balanced", counts, 0.5).tolist()
    torch.testing.assert_close(class_weights(Deferred(beta=0, start=0), counts, 0.5), counts.double())


@given(st.integers(1, 10_000), st.floats(0.0, 0.99999))
def test_the_effective_number_is_its_series(n: int, beta: float) -> None:
    """1 + beta + beta^2 + ... with n terms: between one image and all of them."""
    got = float(effective_number(torch.tensor([n]), beta))
    assert got == pytest.approx(sum(beta**i for i in range(n)), rel=1e-9)


# --- the length of an epoch ---------------------------------------------------------------------------------------


WHOLE = Balanced(name="class_aware", epoch="balanced")


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_has_as_many_images_as_there_are(name: Sampler) -> None:
    assert epoch_length(name, torch.tensor(COUNTS)) == sum(COUNTS)


@pytest.mark.parametrize("name", ["class_aware", "class_balanced"])
def test_a_balanced_epoch_has_n_max_images_of_each_class_that_has_any(name: Any) -> None:
    counts = torch.tensor(COUNTS)
    assert epoch_length(Balanced(name=name, epoch="images"), counts) == sum(COUNTS)
    assert epoch_length(Balanced(name=name, epoch="balanced"), counts) == 40 * 4  # one of the five is empty


def released_sampler(counts: list[int]) -> list[int]:
    """The labels that ClassAwareSampler of the released notebooks visits: an epoch is max(n) * K draws, 4 in a row."""
    visits: list[int] = []
    label = 0
    classes = [k for k, n in enumerate(counts) if n]
    while len(visits) < max(counts) * len(classes):
        visits += [classes[label % len(classes)]] * 4
        label += 1
    return visits[: max(counts) * len(classes)]


@given(st.lists(st.integers(1, 24), min_size=1, max_size=6))
def test_a_balanced_epoch_shows_what_the_whole_class_aware_sampler_shows(counts: list[int]) -> None:
    length = epoch_length(WHOLE, torch.tensor(counts))
    shown = labels_of(counts)[draw(WHOLE, counts, length)]
    times = torch.bincount(shown, minlength=len(counts))
    expected = torch.bincount(torch.tensor(released_sampler(counts)), minlength=len(counts))
    assert times.sort().values.tolist() == expected.sort().values.tolist()  # in which order classes come is random
    if max(counts) % 4 == 0:
        assert times.tolist() == [max(counts)] * len(counts)


def test_fashion_mnist_at_100_has_469_steps() -> None:
    counts = torch.tensor([int(6000 * 0.01 ** (k / 9)) for k in range(10)])
    assert -(-epoch_length(WHOLE, counts) // 128) == 469
    assert -(-epoch_length("class_aware", counts) // 128) == 117


def test_the_form_alone_draws_the_same_images() -> None:
    one = epoch_indices("class_aware", labels_of(COUNTS), torch.tensor(COUNTS), 53, generator(0, "x"), 0)
    other = epoch_indices(WHOLE, labels_of(COUNTS), torch.tensor(COUNTS), 53, generator(0, "x"), 0)
    assert one.equal(other)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Sampler, {"name": "instance_balanced", "epoch": "balanced"}),
        (Sampler, {"name": "class_aware", "epoch": "long"}),
        (Sampler, {"name": "class_aware"}),
        (BalancedSampler, "instance_balanced"),
        (BalancedSampler, {"name": "deferred", "beta": 0.9, "start": 0.8}),
    ],
)
def test_other_specifications_are_refused(kind: Any, wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"class_aware|epoch"):
        TypeAdapter(kind).validate_python(wrong)
