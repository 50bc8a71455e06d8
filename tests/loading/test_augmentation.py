"""The whole augmentation: a pure function of images and draws, step by step what torchvision does."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms import functional

from longtail.loading.augmentation import Augmentation, color_jitter, cutout
from longtail.seeding import generator

OFF: dict[str, Any] = {"crop": "none", "pad": 0, "flip": False, "jitter": 0.0, "policy": "none", "cutout": 0}
ON: dict[str, Any] = {"crop": "pad", "pad": 2, "flip": True, "jitter": 0.4, "policy": "autoaugment", "cutout": 5}
RESIZED = {**ON, "crop": "resized", "pad": 0}


def make(**changes: Any) -> Augmentation:
    return Augmentation(**{**OFF, **changes})


def random_images(count: int, channels: int = 3, side: int = 12, seed: int = 0) -> Tensor:
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator(seed, "images"), dtype=torch.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"pad": 4},
        {"pad": -1, "crop": "pad"},
        {"crop": "resized", "pad": 1},
        {"jitter": -0.1},
        {"cutout": -1},
        {"hue": 1},
    ],
)
def test_contradicting_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**change)


def test_a_pad_that_would_be_ignored_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValidationError, match="set pad: 0 or crop: pad"):
        make(pad=4)


def test_off_changes_nothing_and_draws_nothing() -> None:
    images = random_images(7)
    draws = make().draw(7, generator(0, "draws"))
    assert draws.shape == (7, 0)
    assert torch.equal(make().apply(images, draws), images)


def test_draws_are_uniforms() -> None:
    draws = Augmentation(**ON).draw(4_000, generator(0, "draws"))
    assert draws.dtype == torch.float32 and draws.min() >= 0 and draws.max() < 1
    assert ((draws.mean(0) - 0.5).abs() < 5 / (12 * 4_000) ** 0.5).all()


@settings(max_examples=25)
@given(
    st.sampled_from([("none", 0), ("pad", 3), ("resized", 0)]),
    st.booleans(),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from(["none", "autoaugment"]),
    st.sampled_from([0, 4, 7]),
    st.sampled_from([1, 3]),
    st.integers(0, 100),
)
def test_an_image_depends_on_itself_and_its_draws_alone(
    crop: tuple[str, int], flip: bool, jitter: float, policy: str, hole: int, channels: int, seed: int
) -> None:
    augmentation = make(crop=crop[0], pad=crop[1], flip=flip, jitter=jitter, policy=policy, cutout=hole)
    images, draws = random_images(24, channels, seed=seed), augmentation.draw(24, generator(seed, "draws"))
    before = images.clone()
    together = augmentation.apply(images, draws)
    assert torch.equal(images, before) and together.dtype == torch.uint8 and together.shape == images.shape
    alone = torch.cat([augmentation.apply(images[i : i + 1], draws[i : i + 1]) for i in range(24)])
    assert torch.equal(together, alone)
    order = torch.randperm(24, generator=generator(seed, "order"))
    assert torch.equal(augmentation.apply(images[order], draws[order]), together[order])


@pytest.mark.parametrize("spec", [ON, RESIZED])
def test_every_column_of_the_draws_matters(spec: dict[str, Any]) -> None:
    augmentation = Augmentation(**spec)
    images, draws = random_images(400), augmentation.draw(400, generator(0, "draws"))
    plain = augmentation.apply(images, draws)
    late_attempts = range(4, 20) if spec is RESIZED else range(0)  # read only where earlier attempts did not fit
    for column in set(range(draws.shape[1])) - set(late_attempts):
        changed = draws.clone()
        changed[:, column] = (changed[:, column] + 0.5) % 1
        assert not torch.equal(augmentation.apply(images, changed), plain), column


def test_steps_come_in_order() -> None:
    augmentation = Augmentation(**ON)
    images, draws = random_images(30), augmentation.draw(30, generator(0, "draws"))
    expected = images
    for name, change in [("crop", {"crop": "pad", "pad": 2})] + [(key, {key: ON[key]}) for key in list(ON)[2:]]:
        expected = make(**change).apply(expected, augmentation.split(draws)[name])
    assert torch.equal(augmentation.apply(images, draws), expected)


def test_crops_at_decoding_leave_the_rest_to_do() -> None:
    augmentation, rest = Augmentation(**RESIZED), make(**{**RESIZED, "crop": "none"})
    images, draws = random_images(30), augmentation.draw(30, generator(0, "draws"))
    later = draws[:, augmentation.split(draws)["crop"].shape[1] :]
    assert torch.equal(augmentation.apply_after_crop(images, draws), rest.apply(images, later))


def test_half_of_the_images_are_flipped() -> None:
    images = random_images(1).expand(4_000, -1, -1, -1)
    flipped = make(flip=True).apply(images, make(flip=True).draw(4_000, generator(0, "draws")))
    is_flipped = (flipped == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~is_flipped], images[~is_flipped])
    assert abs(int(is_flipped.sum()) - 2_000) < 5 * 1_000**0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("jitter", [0.4, 1.5])
def test_jitter_is_torchvisions_with_the_same_order_and_factors(channels: int, jitter: float) -> None:
    images, draws = random_images(60, channels), torch.rand((60, 4), generator=generator(0, "draws"))
    steps = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
    used = set()
    for image, (which, *uniforms), ours in zip(
        images, draws.tolist(), color_jitter(images, jitter, draws), strict=True
    ):
        low, high = max(0, 1 - jitter), 1 + jitter
        order = list(permutations(range(3)))[math.floor(which * 6)]
        used.add(order)
        for step in order:
            image = steps[step](image, low + uniforms[step] * (high - low))
        assert torch.equal(ours, image)
    assert len(used) == 6


@pytest.mark.parametrize("side", [1, 4, 5, 16, 40])
def test_cutout_blackens_the_clipped_square_around_the_centre(side: int) -> None:
    images, draws = random_images(40).clamp(min=1), torch.rand((40, 2), generator=generator(0, "draws"))
    holes = cutout(images, side, draws)
    for image, (u, v), hole in zip(images, draws.tolist(), holes, strict=True):
        top, left = math.floor(u * 12) - side // 2, math.floor(v * 12) - side // 2
        for y in range(12):
            for x in range(12):
                inside = top <= y < top + side and left <= x < left + side
                assert torch.equal(hole[:, y, x], torch.zeros_like(hole[:, y, x]) if inside else image[:, y, x])


def test_cutout_centres_are_uniform_over_the_pixels() -> None:
    white = torch.full((9_000, 1, 3, 3), 255, dtype=torch.uint8)
    black = (cutout(white, 1, torch.rand((9_000, 2), generator=generator(0, "draws"))) == 0).sum(0).flatten()
    assert int(black.sum()) == 9_000
    assert all(abs(times - 1_000) <= 5 * 1_000**0.5 for times in black.tolist())
