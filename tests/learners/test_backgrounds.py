"""Background masks at their edges: constant and broken maps, overshoot, modes of a network in the mask pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.learners.csa import background_masks, enlarge, evidence, usable
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.inference import confident, evaluating

SIZE = torch.Size([8, 8])


def masks_of(maps: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take class 0 of one image, by default with weight 1 on the only channel."""
    weight = torch.ones(1, maps.shape[1]) if weight is None else weight
    return background_masks(maps, weight, torch.zeros(len(maps), dtype=torch.int64), SIZE)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_masks_are_shares(seed: int, size: float) -> None:
    maps = size * torch.randn(4, 3, 4, 4, generator=generator(seed, "maps"))
    masks, flat = masks_of(maps, torch.randn(1, 3, generator=generator(seed, "weight")))
    assert masks.shape == (4, 1, 8, 8)
    assert bool(((masks >= 0) & (masks <= 1)).all())
    assert usable(masks, flat).tolist() == (~flat).tolist()


def test_where_the_class_is_there_is_no_background() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2, 5] = 3.0
    masks, _ = masks_of(maps)  # of the image's own size: nothing to interpolate
    assert masks[0, 0, 2, 5] == 0
    assert int((masks == 1).sum()) == 63


def test_half_the_evidence_leaves_a_quarter_of_the_background() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0], maps[0, 0, 7, 7] = 2.0, 1.0
    masks, _ = masks_of(maps)
    assert masks[0, 0, 7, 7] == 0.25


@pytest.mark.parametrize(
    "maps",
    [
        torch.full((1, 1, 4, 4), 3.0),  # constant
        -torch.rand(1, 1, 4, 4, generator=generator(0, "negative")) - 0.1,  # nothing speaks for the class
        torch.zeros(1, 1, 4, 4),
        torch.full((1, 1, 4, 4), torch.nan),
        torch.tensor([0.0] * 15 + [torch.inf]).view(1, 1, 4, 4),
        torch.tensor([0.0] * 15 + [torch.nan]).view(1, 1, 4, 4),
    ],
    ids=["constant", "negative", "zero", "nan", "inf", "one nan"],
)
def test_a_map_that_tells_nothing_gives_no_usable_mask(maps: Tensor) -> None:
    assert usable(*masks_of(maps)).tolist() == [False]


def test_bicubic_overshoot_is_cut() -> None:
    step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 4, 4)
    raw = torch.nn.functional.interpolate(step[:, None], size=(8, 8), mode="bicubic", align_corners=False)
    assert raw.min() < 0
    assert raw.max() > 1
    wide = enlarge(step, SIZE)
    assert (float(wide.min()), float(wide.max())) == (0, 1)


def test_evidence_against_a_class_does_not_count() -> None:
    assert evidence(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0, 0, 3]


def test_confidence_reaches_the_threshold() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert confident(logits, torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [True, False, True]
    assert confident(logits.bfloat16(), torch.ones(3, dtype=torch.int64), 0.5).tolist() == [True, True, False]


def test_a_network_is_put_back_module_by_module(tiny_network: Network) -> None:
    tiny_network.train()
    tiny_network.stages[0].eval()  # as who froze the statistics of a part
    before = {name: module.training for name, module in tiny_network.named_modules()}
    with pytest.raises(KeyboardInterrupt), evaluating(tiny_network):
        assert not any(module.training for module in tiny_network.modules())
        raise KeyboardInterrupt
    assert {name: module.training for name, module in tiny_network.named_modules()} == before
    assert set(before.values()) == {True, False}
