"""OFA's fusion against Algorithm 1 in plain loops, and where masks or maps leave nothing to draw."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.balancers.ofa import (
    class_masks,
    confusing_classes,
    draw_locations,
    drawable,
    fuse,
    specific_share,
)
from longtail.models.activation import activation_maps, min_max
from longtail.seeding import generator

TAU_S, TAU_G = 0.8, 0.2
CONFUSION = [[0.6, 0.1, 0.3, 0.0], [0.2, 0.5, 0.2, 0.1], [0.4, 0.1, 0.4, 0.1], [0.1, 0.3, 0.3, 0.3]]


def vectors(maps: Tensor, image: int) -> list[list[float]]:
    """An image's locations, row by row, each a vector of D numbers."""
    rows: list[list[float]] = maps[image].flatten(1).T.double().tolist()
    return rows


def own_map(maps: Tensor, weight: Tensor, image: int, label: int) -> list[float] | None:
    """The class activation map of the image's class in [0, 1], or None where it is constant."""
    cam = [sum(w * f for w, f in zip(weight[label].tolist(), v, strict=True)) for v in vectors(maps, image)]
    if max(cam) - min(cam) <= 1e-6:
        return None
    return [(m - min(cam)) / (max(cam) - min(cam)) for m in cam]


def drawn_from(maps: Tensor, image: int, cam: list[float] | None, kind: str) -> list[list[float]]:
    """Lines 7, 8, 12, 13 and the note at line 14: the vectors that may be drawn."""
    everything = vectors(maps, image)
    filled = [v for v in everything if any(v)]
    if cam is None:
        masked = filled
    elif kind == "specific":
        masked = [v for v, m in zip(everything, cam, strict=True) if m >= TAU_S and any(v)]
    else:
        masked = [v for v, m in zip(everything, cam, strict=True) if m <= TAU_G and any(v)]
    return masked or filled or everything


def fused_oracle(
    maps: Tensor, weight: Tensor, labels: list[int], pair: tuple[int, int], draws: list[float]
) -> list[float]:
    """Lines 7 to 17 of Algorithm 1 for one tail image and one confusing image, then the mean-pool."""
    tail, other = pair
    own = drawn_from(maps, tail, own_map(maps, weight, tail, labels[tail]), "specific")
    rest = drawn_from(maps, other, own_map(maps, weight, other, labels[other]), "generic")
    size = maps.shape[2] * maps.shape[3]
    wanted = min(max(round(draws[0] * size), 1), size - 1)
    merged = []
    for place in range(size):
        if place < wanted:
            merged.append(own[int(draws[1 + place] * len(own))])
        else:
            merged.append(rest[int(draws[1 + size + place] * len(rest))])
    return [sum(column) / size for column in zip(*merged, strict=True)]


def scene(seed: int = 0, size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Six ReLU-like maps with zero vectors, a flat one among them, their weights and labels."""
    draws = generator(seed, "scene")
    maps = torch.randn(6, 4, size, size, generator=draws).relu()
    maps[:, :, 0, 1] = 0.0
    maps[4] = 0.7
    return maps, torch.randn(5, 4, generator=draws), torch.tensor([3, 4, 0, 1, 2, 0])


ROWS, PARTNERS = torch.tensor([0, 0, 1, 1, 4, 1]), torch.tensor([2, 3, 4, 5, 3, 0])


def compare(seed: int = 0, size: int = 3) -> None:
    """Compare the fused features of six pairs with the oracle's."""
    maps, weight, labels = scene(seed, size)
    draws = torch.rand(len(ROWS), 1 + 2 * size * size, generator=generator(seed, "draws"))
    got = fuse(maps, ROWS, PARTNERS, class_masks(maps, weight, labels, TAU_S, TAU_G), draws)
    pairs = zip(ROWS.tolist(), PARTNERS.tolist(), strict=True)
    wanted = [
        fused_oracle(maps, weight, labels.tolist(), pair, row.tolist()) for pair, row in zip(pairs, draws, strict=True)
    ]
    torch.testing.assert_close(got.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def compare_confusing() -> None:
    """Compare the confusing classes with sorting by hand."""
    confusion = torch.tensor(CONFUSION)
    every, head = [True] * 4, [True, True, False, False]
    for asked, pool in ((every, every), (every, [True, True, True, False]), ([not h for h in head], head)):
        got = confusing_classes(confusion, torch.tensor(asked), torch.tensor(pool), 2).tolist()
        for c in (c for c in range(4) if asked[c]):
            others = [u for u in range(4) if u != c and pool[u]]
            assert got[c] == sorted(others, key=lambda u: (-CONFUSION[c][u], u))[:2]


@given(st.integers(0, 200), st.sampled_from([2, 3, 4]))
def test_fusion_is_algorithm_1(seed: int, size: int) -> None:
    compare(seed, size)


def test_confusing_classes_are_those_of_the_largest_mean_probability() -> None:
    compare_confusing()


def test_there_are_no_more_confusing_classes_than_others() -> None:
    assert confusing_classes(torch.eye(3), torch.tensor([True] * 3), torch.tensor([True] * 3), 7).shape == (3, 2)
    head = torch.tensor([False, True, False])
    only = confusing_classes(torch.full((3, 3), 0.3), ~head, head, 3)
    assert only[[0, 2]].tolist() == [[1], [1]]


@given(st.integers(0, 100))
def test_masks_are_never_empty_and_flat_maps_are_both(seed: int) -> None:
    maps, weight, labels = scene(seed)
    specific, generic = class_masks(maps, weight, labels, TAU_S, TAU_G)
    assert specific.any(1).all() and generic.any(1).all()
    assert specific[4].all() and generic[4].all()
    assert not (specific & generic)[[0, 1, 2, 3, 5]].any()
    scaled, _ = min_max(activation_maps(maps, weight, labels))
    assert specific[[0, 1, 2, 3, 5]].equal((scaled.flatten(1) >= TAU_S)[[0, 1, 2, 3, 5]])


def test_nothing_is_drawn_where_the_vector_is_zero() -> None:
    maps = torch.zeros(3, 2, 2, 2)
    maps[:2, 0, 0, 0], maps[0, 1, 1, 1] = 1.0, 2.0
    masks = torch.tensor([[True, True, True, True], [False, True, True, False], [True, False, False, False]])
    got = drawable(maps, masks).tolist()
    assert got[0] == [True, False, False, True]
    assert got[1] == [True, False, False, False]  # the mask holds zeros alone: all that is not zero
    assert got[2] == [True, True, True, True]  # nothing but zeros: the real feature


def test_every_fused_sample_has_both_parts() -> None:
    assert specific_share(torch.tensor([0.0, 0.02, 0.5, 0.99, 1.0]), 16).tolist() == [1, 1, 8, 15, 15]


def test_locations_are_drawn_alike() -> None:
    chosen = torch.tensor([[False, True, True, False, True]]).expand(30_000, 5)
    drawn = draw_locations(chosen, torch.rand(30_000, 5, generator=generator(0, "draws")))
    shares = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    assert shares[[0, 3]].tolist() == [0.0, 0.0]
    assert (shares[[1, 2, 4]] - 1 / 3).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    maps, weight, labels = scene()
    masks = class_masks(maps.to(dtype), weight, labels, TAU_S, TAU_G)
    draws = torch.rand(len(ROWS), 19, generator=generator(0, "draws"))
    with torch.autocast("cpu", torch.bfloat16):
        got = fuse(maps.to(dtype), ROWS, PARTNERS, masks, draws)
    assert got.equal(fuse(maps.to(dtype).float(), ROWS, PARTNERS, masks, draws))
