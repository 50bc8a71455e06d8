"""CAM-BS against plain loops over pixels, its limits, the pool that it stands for, and its pitfalls."""

import math
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import tiny
from csa_oracle import batches, cross_entropy, mean
from longtail.learners.cam_bs import DRAWS, CamBS, CamBSStep, foreground, generated_share, paste, sources
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.loop import Run, fit
from longtail.training.plans import CosineSchedule, Optimisation
from mixed import agree, at, copy_of, make_objective, make_step, plain_step

CODE = CamBS(threshold=0.75)
TURN, SHIFT, FLIP = 0.1, 0.5, 0.9  # draws that choose each
WHOLE = torch.Size((8, 8))


def pair(index: int, size: int = 10) -> Batch:
    """Draw a class-balanced batch in the memory format that `fit` gives it."""
    images, labels = batches(index, size)[1]
    return Batch(images.contiguous(memory_format=torch.channels_last), labels)


def run(step: Any, batch: Batch, index: int = 0) -> Tensor:
    loss: Tensor = step(batch, progress=at(0.5), generator=generator(index, "draws"))
    return loss


def draws_of(index: int, size: int) -> Tensor:
    return torch.rand((size, DRAWS), generator=generator(index, "draws"), dtype=torch.float64)


def masks_at(rows: slice, columns: slice, size: tuple[int, int] = (6, 9)) -> Tensor:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, rows, columns] = True
    return mask


def moved(images: Tensor, mask: Tensor, *draws: float) -> Tensor:
    """Move with draws of: which, angle, scale, down, right."""
    return paste(images, mask, sources(mask, torch.tensor([draws], dtype=torch.float64)))


def picture(height: int = 6, width: int = 9) -> Tensor:
    return torch.rand(1, 3, height, width, dtype=torch.float64, generator=generator(0, "picture"))


class Oracle:
    """The recipe of the paper and its code, pixel by pixel."""

    def __init__(self, guide: Network, threshold: float, counts: tuple[int, ...] = tiny.COUNTS) -> None:
        self.guide, self.threshold, self.counts = deepcopy(guide).eval(), threshold, counts
        self.seen: Counter[str] = Counter()

    def images(self, batch: Batch, draws: Tensor) -> Tensor:
        maps, weight = self.guide.maps(batch.images).tolist(), self.guide.classifier.weight.tolist()
        made = []
        for i, y in enumerate(batch.labels.tolist()):
            image, u = batch.images[i].tolist(), draws[i].tolist()
            pool = max(self.counts) + min(self.counts)
            generated = pool - self.counts[y]
            if u[0] * pool < generated:
                image = self._move(image, self._cam(maps[i], weight[y]), u[1:])
            else:
                self.seen["kept"] += 1
            made.append(torch.tensor(image, dtype=torch.float64))
        return torch.stack(made)

    def _cam(self, maps: Any, weight: list[float]) -> list[list[float]]:
        height, width = len(maps[0]), len(maps[0][0])
        return [
            [math.fsum(w * plane[r][c] for w, plane in zip(weight, maps, strict=True)) for c in range(width)]
            for r in range(height)
        ]

    def _foreground(self, cam: list[list[float]], height: int, width: int) -> set[tuple[int, int]]:
        low, high = min(map(min, cam)), max(map(max, cam))
        attention = {
            (r, c): (bilinear(cam, (r + 0.5) * len(cam) / height - 0.5, (c + 0.5) * len(cam[0]) / width - 0.5) - low)
            / (high - low)
            for r in range(height)
            for c in range(width)
        }
        average = math.fsum(attention.values()) / len(attention)
        return {place for place, value in attention.items() if value >= self.threshold * average}

    def _move(self, image: Any, cam: list[list[float]], u: list[float]) -> Any:
        height, width = len(image[0]), len(image[0][0])
        seen = self._foreground(cam, height, width)
        top, bottom = min(r for r, _ in seen), max(r for r, _ in seen)
        left, right = min(c for _, c in seen), max(c for _, c in seen)
        downs, rights = range(-top, height - bottom), range(-left, width - right)
        down, aside = downs[int(u[3] * len(downs))], rights[int(u[4] * len(rights))]
        middle = complex((top + bottom) / 2, (left + right) / 2)  # row + i column
        turning = (0.8 + 0.4 * u[2]) * complex(math.cos(a := math.radians(90 * u[1] - 45)), math.sin(a))
        kind = ("turned", "shifted", "flipped")[int(3 * u[0])]
        self.seen[kind] += 1
        new = deepcopy(image)
        for r in range(height):
            for c in range(width):
                source = {
                    "turned": middle + (complex(r, c) - middle) / turning,
                    "shifted": complex(r - down, c - aside),
                    "flipped": complex(r, width - 1 - c),
                }[kind]
                if (round(source.real), round(source.imag)) in seen:
                    for channel in range(len(image)):
                        new[channel][r][c] = bilinear(image[channel], source.real, source.imag)
        return new


def bilinear(plane: Any, row: float, column: float) -> float:
    """Interpolate between the four pixels around a place; outside, the plane goes on as at its edge."""
    row, column = min(max(row, 0.0), len(plane) - 1.0), min(max(column, 0.0), len(plane[0]) - 1.0)
    r, c = int(row), int(column)
    below, after = min(r + 1, len(plane) - 1), min(c + 1, len(plane[0]) - 1)
    upper = plane[r][c] * (1 - column + c) + plane[r][after] * (column - c)
    lower = plane[below][c] * (1 - column + c) + plane[below][after] * (column - c)
    value: float = upper * (1 - row + r) + lower * (row - r)
    return value


@pytest.mark.parametrize("threshold", [0.75, 1.2, 0.0])
def test_images_are_those_of_loops_over_pixels(threshold: float) -> None:
    step, seen = make_step(CamBS(threshold=threshold)), Counter[str]()
    for index in range(6):
        batch, draws = pair(index), draws_of(index, 10)
        oracle = Oracle(step.guide, threshold)
        ours = step.transform(batch.images, batch.labels, draws)
        torch.testing.assert_close(ours, oracle.images(batch, draws), rtol=1e-9, atol=1e-9)
        seen += oracle.seen
    assert set(seen) == {"kept", "turned", "shifted", "flipped"}
    assert min(seen.values()) > 5


@pytest.mark.parametrize("size", [10, 7])
def test_loss_gradients_and_statistics_are_the_oracles(size: int) -> None:
    for index in range(3):
        step, batch = make_step(CODE), pair(index, size)
        network, images = copy_of(step), Oracle(step.guide, 0.75).images(batch, draws_of(index, size))
        losses = [cross_entropy(z, int(y)) for z, y in zip(network(images), batch.labels, strict=True)]
        agree(step, run(step, batch, index), network, mean(losses))


counts_lists = st.lists(st.integers(1, 500), min_size=2, max_size=8)


@given(counts_lists)
def test_shares_are_those_of_a_pool_in_which_all_classes_are_as_large(counts: list[int]) -> None:
    """n_k originals and n_max + n_min - n_k generated images are n_max + n_min for every class."""
    pool = max(counts) + min(counts)
    for n, share in zip(counts, generated_share(torch.tensor(counts)).tolist(), strict=True):
        generated = share * pool
        assert generated == pytest.approx(pool - n)
        assert generated >= min(counts) - 1e-9  # the largest class gains too
    assert generated_share(torch.tensor([7, 7])).tolist() == [0.5, 0.5]


def test_an_empty_class_is_not_the_smallest() -> None:
    assert generated_share(torch.tensor([9, 0, 3])).tolist() == pytest.approx([3 / 12, 1, 9 / 12])


def test_shown_images_have_the_pools_mix() -> None:
    """Of 4000 images of a class, all to be flipped if moved, a share within 4 standard deviations is."""
    step, image = make_step(CODE), pair(0).images[:1]
    for label, n in enumerate(tiny.COUNTS):
        draws = torch.rand((4000, DRAWS), generator=generator(label, "mix"), dtype=torch.float64)
        draws[:, 1] = FLIP
        made = step.transform(image.expand(4000, -1, -1, -1), torch.full((4000,), label), draws)
        changed = float((made != image).flatten(1).any(1).double().mean())
        share = (20 + 1 - n) / (20 + 1)
        assert abs(changed - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def test_a_threshold_that_no_pixel_reaches_is_plain_learning() -> None:
    step, plain, batch = make_step(CamBS(threshold=100.0)), plain_step(), pair(0)
    assert step.transform(batch.images, batch.labels, draws_of(0, 10)).equal(batch.images)
    assert run(step, batch).equal(run(plain, batch))


def test_threshold_zero_moves_the_whole_picture() -> None:
    cams = torch.randn(1, 4, 4, generator=generator(0, "cam"))
    mask = foreground(cams, 0.0, WHOLE)
    assert mask.all()
    image = picture(8, 8)
    torch.testing.assert_close(moved(image, mask, FLIP, 0, 0, 0, 0), image.flip(3))
    torch.testing.assert_close(moved(image, mask, SHIFT, 0, 0, 0.99, 0.99), image)  # the box leaves no room
    assert not moved(image, mask, TURN, 0.9, 0.5, 0, 0).allclose(image)


@pytest.mark.parametrize("value", [0.0, 3.5, math.nan, math.inf])
def test_a_cam_that_tells_nothing_moves_nothing(value: float) -> None:
    cams = torch.full((2, 4, 4), value)
    assert not foreground(cams, 0.75, WHOLE).any()
    assert not foreground(cams, 0.0, WHOLE).any()


def test_a_guide_without_opinion_leaves_images_as_they_are() -> None:
    step, batch = make_step(CODE), pair(0)
    with torch.no_grad():
        step.guide.classifier.weight.zero_()
    assert step.transform(batch.images, batch.labels, draws_of(0, 10)).equal(batch.images)


def test_one_flat_cam_among_others_spoils_none() -> None:
    cams = torch.randn(3, 4, 4, generator=generator(0, "cam"))
    alone = foreground(cams, 0.75, WHOLE)
    cams[1] = math.nan
    together = foreground(cams, 0.75, WHOLE)
    assert together[0].equal(alone[0]) and together[2].equal(alone[2]) and not together[1].any()


def test_the_foreground_does_not_change_with_the_scale_or_the_level_of_a_cam() -> None:
    """CAMs are mostly negative for classes that a network does not believe in."""
    cams = torch.randn(4, 5, 5, dtype=torch.float64, generator=generator(0, "cam"))
    expected = foreground(cams, 0.75, WHOLE)
    assert foreground(7 * cams - 100, 0.75, WHOLE).equal(expected)
    assert all(0 < int(mask.sum()) < 64 for mask in expected)


places = st.integers(0, 5), st.integers(0, 5), st.integers(0, 8), st.integers(0, 8)


@given(*places, st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_translation_never_loses_a_pixel_of_the_object(
    top: int, bottom: int, left: int, right: int, down: float, aside: float
) -> None:
    (top, bottom), (left, right) = sorted((top, bottom)), sorted((left, right))
    mask = masks_at(slice(top, bottom + 1), slice(left, right + 1))
    made = moved(mask[:, None].double(), mask, SHIFT, 0, 0, down, aside)
    height, width = bottom - top + 1, right - left + 1
    row, column = int(down * (6 - height + 1)), int(aside * (9 - width + 1))  # where its corner goes, all places alike
    arrived = masks_at(slice(row, row + height), slice(column, column + width))
    assert (made[:, 0] > 0.5).equal(mask | arrived)


def test_a_translation_reaches_every_place_that_keeps_the_box_in_the_frame() -> None:
    mask, corners = masks_at(slice(2, 4), slice(3, 8)), set()
    for down in range(5):
        for aside in range(5):
            draws = torch.tensor([[SHIFT, 0, 0, (down + 0.5) / 5, (aside + 0.5) / 5]], dtype=torch.float64)
            row, column = (-sources(mask, draws)[0, 0, 0]).tolist()  # where the frame's corner goes
            corners.add((2 + row, 3 + column))
    assert corners == {(r, c) for r in range(5) for c in range(5)}


def test_what_the_object_does_not_cover_stays() -> None:
    """Also where it stood before: the object is pasted, not cut out."""
    image, mask = picture(), masks_at(slice(0, 2), slice(0, 2))
    made = moved(image, mask, SHIFT, 0, 0, 0.99, 0.99)
    torch.testing.assert_close(made[:, :, 4:, 7:], image[:, :, :2, :2])
    covered = masks_at(slice(4, 6), slice(7, 9))[:, None].expand_as(image)
    assert made[~covered].equal(image[~covered])


def test_a_flip_mirrors_the_frame() -> None:
    image, mask = picture(), masks_at(slice(1, 3), slice(0, 2))
    made = moved(image, mask, FLIP, 0, 0, 0, 0)
    torch.testing.assert_close(made[:, :, 1:3, 7:], image[:, :, 1:3, :2].flip(3))
    assert made[:, :, :, :7].equal(image[:, :, :, :7])


def test_turning_by_nothing_at_scale_one_changes_nothing() -> None:
    image, mask = picture(), masks_at(slice(1, 4), slice(2, 5))
    torch.testing.assert_close(moved(image, mask, TURN, 0.5, 0.5, 0, 0), image)


def test_a_larger_scale_enlarges_the_object_about_its_middle() -> None:
    """At scale 1.2 a square of 11 pixels about pixel 10 covers 13, from pixel 4 to 16."""
    mask = masks_at(slice(5, 16), slice(5, 16), (21, 21))
    white = torch.ones(1, 1, 21, 21, dtype=torch.float64)
    image = white * mask[:, None]
    grown = moved(image, mask, TURN, 0.5, 1.0, 0, 0)
    rows = (grown[0, 0] > 0.05).any(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (4, 16)


def test_turning_at_the_border_blends_no_black_in() -> None:
    white, mask = torch.ones(1, 3, 8, 8, dtype=torch.float64), torch.ones(1, 8, 8, dtype=torch.bool)
    for angle in (0.0, 0.3, 0.8):
        torch.testing.assert_close(moved(white, mask, TURN, angle, 0.0, 0, 0), white)


def test_an_object_of_one_pixel_works() -> None:
    image, mask = picture(), masks_at(slice(5, 6), slice(8, 9))
    for which in (TURN, SHIFT, FLIP):
        assert moved(image, mask, which, 0.3, 0.4, 0.5, 0.6).isfinite().all()


def test_half_precision_of_the_network_does_not_blur_the_places() -> None:
    """In bfloat16 a place would be known to half a pixel."""
    image = picture(64, 64).float()
    mask = masks_at(slice(30, 50), slice(10, 40), (64, 64))
    for which in (TURN, SHIFT, FLIP):
        expected = moved(image, mask, which, 0.3, 0.4, 0.5, 0.6)
        with torch.autocast("cpu", torch.bfloat16):
            assert moved(image, mask, which, 0.3, 0.4, 0.5, 0.6).equal(expected)


def test_images_keep_their_type_and_memory_format() -> None:
    step, batch = make_step(CODE).float(), pair(0)
    made = step.transform(batch.images.float(), batch.labels, draws_of(0, 10))
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert float(made.min()) >= 0 and float(made.max()) <= 1


def test_the_guide_is_the_start_and_never_moves() -> None:
    network = tiny.make_network()
    step = CODE.step_for(network, make_objective())
    assert isinstance(step, CamBSStep)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    plan = Optimisation(
        epochs=2,
        batch_size=8,
        lr=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4,
        warmup=0,
        schedule=CosineSchedule(),
    )
    augmentation = Augmentation(crop="none", pad=0, flip=False, jitter=0, policy="none", cutout=0)
    data = ImageBatches(tiny.make_split().train, ("class_balanced",), 8, augmentation, 2, 0)
    fit(step, data, plan, Run(name="tiny", seed=0, device=torch.device("cpu")))
    step.train()
    assert step.network.training and not any(module.training for module in step.guide.modules())
    assert all(value.equal(start[name]) for name, value in step.guide.state_dict().items())
    assert not network.classifier.weight.equal(start["classifier.weight"])
    assert not any(parameter.requires_grad for parameter in step.guide.parameters())


def test_gradients_go_through_the_moved_images_to_the_network_alone() -> None:
    step, batch = make_step(CODE), pair(0)
    images = batch.images.clone().requires_grad_()
    made = step.transform(images, batch.labels, draws_of(0, 10))
    assert not made.requires_grad


@pytest.mark.parametrize("changes", [{"threshold": -0.1}, {"threshold": True}, {"treshold": 0.75}])
def test_a_row_that_says_something_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CamBS.model_validate({"threshold": 0.75} | changes)
