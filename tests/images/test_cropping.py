"""Crops as functions of uniforms: torchvision's windows and boxes, in its distribution."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop, functional

from longtail.images.cropping import CROP_DRAWS, crop_box, pad_crop, resized_crop
from longtail.seeding import generator, seeded

SCALE, RATIO = [0.08, 1.0], [3 / 4, 4 / 3]


@pytest.mark.parametrize("shape, pad", [((3, 32, 32), 4), ((1, 8, 8), 1), ((3, 7, 5), 3), ((1, 6, 6), 0)])
def test_pad_crop_is_a_window_of_the_padded_image(shape: tuple[int, ...], pad: int) -> None:
    images = torch.randint(0, 256, (50, *shape), generator=generator(0, "images"), dtype=torch.uint8)
    draws = torch.rand((50, 2), generator=generator(0, "draws"))
    for image, draw, crop in zip(images, draws.tolist(), pad_crop(images, pad, draws), strict=True):
        top, left = (math.floor(u * (2 * pad + 1)) for u in draw)
        assert torch.equal(crop, functional.crop(functional.pad(image, [pad]), top, left, *shape[1:]))


def test_pad_crop_reaches_every_window_equally_often() -> None:
    places = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(9_000, -1, -1, -1)
    corners = pad_crop(places, 1, torch.rand((9_000, 2), generator=generator(0, "draws")))[:, 0, 1, 1]
    assert all(abs(times - 1_000) <= 5 * 1_000**0.5 for times in torch.bincount(corners.long())[1:].tolist())


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
def test_the_box_is_the_first_attempt_that_fits(height: int, width: int, seed: int) -> None:
    draws = torch.rand(CROP_DRAWS, generator=generator(seed, "draws")).tolist()
    top, left, box_height, box_width = crop_box(height, width, draws)
    assert 0 <= top <= height - box_height and 0 <= left <= width - box_width and box_height > 0 < box_width
    for attempt in range(10):
        area = (0.08 + 0.92 * draws[2 * attempt]) * height * width
        ratio = 0.75 * (16 / 9) ** draws[2 * attempt + 1]
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            assert (box_height, box_width) == (h, w)
            assert (top, left) == (math.floor(draws[20] * (height - h + 1)), math.floor(draws[21] * (width - w + 1)))
            break


@pytest.mark.parametrize("height, width", [(10, 1000), (1000, 10), (1, 40)])
def test_without_a_fitting_attempt_the_box_is_torchvisions_central_one(height: int, width: int) -> None:
    draws = torch.rand(CROP_DRAWS, generator=generator(0, "draws")).tolist()
    theirs = RandomResizedCrop.get_params(torch.empty(1, height, width), SCALE, RATIO)
    assert crop_box(height, width, draws) == theirs


@pytest.mark.parametrize("height, width", [(32, 32), (40, 25)])
def test_boxes_have_torchvisions_distribution(height: int, width: int) -> None:
    count = 4_000
    draws = torch.rand((count, CROP_DRAWS), generator=generator(0, "draws")).tolist()
    ours = torch.tensor([crop_box(height, width, row) for row in draws], dtype=torch.float64)
    with seeded(0, "theirs"):
        image = torch.empty(1, height, width)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(count)]).double()
    for moment in (ours, theirs), (ours**2, theirs**2), (ours.prod(1), theirs.prod(1)):
        a, b = moment
        error = ((a.var(0) + b.var(0)) / count).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_resized_crop_is_torchvisions_of_the_same_box(mode: str) -> None:
    noise = torch.randint(0, 256, (37, 53, 3), generator=generator(0, "image"), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).convert(mode)
    for draws in torch.rand((20, CROP_DRAWS), generator=generator(0, "draws")):
        top, left, height, width = crop_box(37, 53, draws.tolist())
        expected = functional.resized_crop(image, top, left, height, width, [16, 24])
        assert resized_crop(image, 16, 24, draws).tobytes() == expected.tobytes()
