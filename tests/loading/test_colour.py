"""Colour operations against torchvision's on single images, and independence of the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from longtail.loading.colour import adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness
from longtail.seeding import generator

OPERATIONS = [
    (adjust_brightness, functional.adjust_brightness),
    (adjust_contrast, functional.adjust_contrast),
    (adjust_saturation, functional.adjust_saturation),
    (adjust_sharpness, functional.adjust_sharpness),
]
SHAPES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 11, 7), (3, 2, 9)]


def random_images(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=generator(seed, "images"), dtype=torch.uint8)


@pytest.mark.parametrize("ours, theirs", OPERATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_in_a_batch_equals_torchvision_on_that_image(ours: Any, theirs: Any, shape: tuple[int, ...]) -> None:
    images = random_images(40, shape)
    before = images.clone()
    factors = torch.rand(40, generator=generator(0, "factors"), dtype=torch.float64) * 2
    factors[:3] = torch.tensor([0.0, 1.0, 2.0])
    alone = torch.stack([theirs(image, float(f)) for image, f in zip(images, factors, strict=True)])
    assert torch.equal(ours(images, factors), alone)
    assert torch.equal(images, before)


@pytest.mark.parametrize("ours, _", OPERATIONS)
def test_an_image_does_not_depend_on_its_batch(ours: Any, _: Any) -> None:
    images = random_images(33, (3, 13, 9))
    factors = torch.rand(33, generator=generator(1, "factors"), dtype=torch.float64) * 2
    alone = torch.cat([ours(images[i : i + 1], factors[i : i + 1]) for i in range(33)])
    assert torch.equal(ours(images, factors), alone)
    assert torch.equal(ours(images.flip(0), factors.flip(0)), alone.flip(0))


@pytest.mark.parametrize("ours, _", OPERATIONS)
def test_a_factor_of_one_keeps_the_image(ours: Any, _: Any) -> None:
    images = random_images(5, (3, 16, 16))
    assert torch.equal(ours(images, torch.ones(5, dtype=torch.float64)), images)
