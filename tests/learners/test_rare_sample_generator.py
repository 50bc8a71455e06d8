"""The terms of MV at their limits, where vectors vanish, and in both layouts."""

import pytest
import torch
from torch import Tensor

from longtail.learners.rsg import (
    ContrastiveModule,
    Form,
    RareSampleGenerator,
    Transfer,
    contrast_loss,
    direction_loss,
    length_loss,
    vectors,
)
from longtail.seeding import generator, seeded

PAPER: Form = "paper"
both = pytest.mark.parametrize("layout", ["paper", "reference"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed, "maps"))


def make_generator(transforms: bool = True) -> RareSampleGenerator:
    with seeded(0, "rare"):
        rare = RareSampleGenerator(4, 3, centres=2, cm_kernel=3, transforms=transforms)
        torch.nn.init.normal_(rare.centres.centres)
    return rare.double()


def make_transfer(rare: RareSampleGenerator) -> Transfer:
    labels = torch.tensor([0, 1, 0, 2, 2])
    return rare.transfer(draw(5, 4, 3, 3), labels, torch.tensor([0, 1, 2, 0]), torch.tensor([3, 4, 3, 4]))


@both
@pytest.mark.parametrize(("factor", "distance"), [(1.0, 0.0), (0.1, 0.0), (7.0, 0.0), (-2.0, 2.0)])
def test_the_first_term_knows_directions_alone(layout: Form, factor: float, distance: float) -> None:
    wanted = draw(2, 4, 3, 5)
    expected = torch.full((2,), distance * 15, dtype=torch.float64)
    torch.testing.assert_close(direction_loss(factor * wanted, wanted, layout), expected)


@both
@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_the_second_term_knows_lengths_alone(layout: Form, factor: float) -> None:
    original = draw(2, 4, 3, 5)
    expected = abs(abs(factor) - 1) * vectors(original, layout).square().sum(2).sqrt().sum(1)
    torch.testing.assert_close(length_loss(factor * original, original, layout), expected)


def test_perpendicular_vectors_are_a_right_angle_apart_at_each_location() -> None:
    one, other = torch.zeros(2, 1, 4, 3, 3)
    one[:, 0], other[:, 1] = 3.0, 2.0
    assert direction_loss(one, other, PAPER).tolist() == [9.0]


@both
def test_gradients_are_those_of_the_values(layout: Form) -> None:
    moved, other = draw(2, 3, 2, 2).requires_grad_(), draw(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda maps: direction_loss(maps, other, layout), moved)
    assert torch.autograd.gradcheck(lambda maps: length_loss(maps, other, layout), moved)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_length_zero_have_no_direction_and_no_gradient(layout: Form, dtype: torch.dtype) -> None:
    """Behind a ReLU maps hold exact zeros, and T of zeros is its bias, which starts at zero."""
    moved, wanted = (torch.randn(1, 4, 2, 2, generator=generator(seed, "maps")).to(dtype) for seed in (0, 1))
    zeros = torch.zeros_like(moved)
    for one, other in ((zeros, wanted), (moved, zeros), (zeros, zeros)):
        leaf = one.clone().requires_grad_()
        losses = direction_loss(leaf, other, layout), length_loss(leaf, other, layout)
        assert losses[0].tolist() == [4.0]
        gradients = [torch.autograd.grad(loss.sum(), leaf)[0] for loss in losses]
        assert not gradients[0].any()
        assert gradients[1].isfinite().all()


def test_a_vector_just_above_nothing_has_a_direction() -> None:
    moved, wanted = torch.full((1, 4, 1, 1), 1e-7), torch.ones(1, 4, 1, 1)
    torch.testing.assert_close(direction_loss(moved, wanted, PAPER), torch.zeros(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_layouts_cut_vectors_by_location_or_along_a_channel(memory: torch.memory_format) -> None:
    maps = torch.arange(2 * 4 * 2 * 2).float().view(2, 4, 2, 2).contiguous(memory_format=memory)
    assert vectors(maps, "paper")[0].tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]
    assert vectors(maps, "reference")[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_without_a_transformation_displacements_are_added_as_they_are() -> None:
    transfer = make_transfer(make_generator(transforms=False))
    assert transfer.moved.equal(transfer.displacements)
    assert not make_generator(transforms=False).state_dict().keys() & {"transformation.weight"}


def test_the_transformation_keeps_shapes_and_starts_without_a_bias() -> None:
    rare = make_generator()
    transformation = rare.transformation
    assert isinstance(transformation, torch.nn.Conv2d)
    assert transformation.weight.shape == (4, 4, 3, 3)
    assert transformation.bias is not None
    assert not transformation.bias.any()
    assert make_transfer(rare).moved.shape == (4, 4, 3, 3)


def test_mv_trains_the_transformation_alone() -> None:
    rare = make_generator()
    loss = rare.mv_loss(make_transfer(rare), ("direction", "length", "contrast"), PAPER, PAPER)
    names, parameters = zip(*rare.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    learns = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert learns == {"transformation.weight", "transformation.bias"}


def test_mv_is_the_sum_of_its_terms_and_nothing_without_any() -> None:
    rare = make_generator()
    transfer = make_transfer(rare)
    terms = [rare.mv_loss(transfer, (term,), PAPER, PAPER) for term in ("direction", "length", "contrast")]
    torch.testing.assert_close(
        rare.mv_loss(transfer, ("contrast", "direction", "length"), PAPER, PAPER), torch.stack(terms).sum()
    )
    assert all(float(term.detach()) > 0 for term in terms)
    assert float(rare.mv_loss(transfer, (), PAPER, PAPER)) == 0


def test_the_third_term_teaches_to_look_different() -> None:
    rare = make_generator()
    before = contrast_loss(rare.contrastive, make_transfer(rare), PAPER).sum()
    weights = list(rare.transformation.parameters())
    with torch.no_grad():
        for weight, gradient in zip(weights, torch.autograd.grad(before, weights), strict=True):
            weight.sub_(1e-3 * gradient)
    assert contrast_loss(rare.contrastive, make_transfer(rare), PAPER).sum() < before


def test_mv_is_float32_under_autocast() -> None:
    rare = make_generator().float()
    labels, rows = torch.tensor([0, 1, 0, 2, 2]), (torch.tensor([0, 1]), torch.tensor([3, 4]))
    with torch.autocast("cpu", torch.bfloat16):
        transfer = rare.transfer(draw(5, 4, 3, 3).bfloat16(), labels, *rows)
        assert transfer.moved.dtype == torch.bfloat16
        assert transfer.displacements.dtype == torch.float32
        assert direction_loss(transfer.moved, transfer.displacements, PAPER).dtype == torch.float32
        assert length_loss(transfer.moved, transfer.displacements, PAPER).dtype == torch.float32
        assert contrast_loss(ContrastiveModule(4, 3, 8), transfer, PAPER).dtype == torch.float32
