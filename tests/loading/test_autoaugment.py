"""AutoAugment's policy: the table, every operation and every frequency against torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from longtail.loading.autoaugment import DRAWS, LEVELS, OPERATIONS, POLICY, autoaugment, magnitude
from longtail.seeding import generator

THEIRS = AutoAugment(AutoAugmentPolicy.CIFAR10)
SPACE = THEIRS._augmentation_space(LEVELS, (32, 32))


def smooth_images(count: int, channels: int, side: int = 32) -> Tensor:
    coarse = torch.rand((count, channels, 5, 5), generator=generator(0, "images"))
    images = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear", align_corners=False)
    images[0] = 0.3  # flat: nothing to stretch or to equalise
    return (images * 255).to(torch.uint8)


def forced(policy: int, active: tuple[bool, bool], signs: tuple[int, int]) -> Tensor:
    """Uniforms that choose a sub-policy, each operation or not, and each sign (0 is minus, as in torchvision)."""
    probabilities = [0.0 if a else 1 - 2**-24 for a in active]
    return torch.tensor([(policy + 0.5) / 25, *probabilities, *(0.25 + 0.5 * s for s in signs)])


def transform_alone(
    image: Tensor, policy: int, active: tuple[bool, bool], signs: tuple[int, int], fill: int = 0
) -> Tensor:
    background = [float(fill)] * len(image)
    space = THEIRS._augmentation_space(LEVELS, tuple(image.shape[-2:]))
    for step, (name, _, level) in enumerate(THEIRS.policies[policy]):
        magnitudes, is_signed = space[name]
        value = float(magnitudes[level]) if level is not None else 0.0
        value = -value if is_signed and signs[step] == 0 else value
        if active[step]:
            image = _apply_op(image, name, value, interpolation=InterpolationMode.NEAREST, fill=background)
    return image


def test_policy_is_torchvisions() -> None:
    assert [[(name, p, level or 0) for name, p, level in sub] for sub in THEIRS.policies] == [list(s) for s in POLICY]


def test_every_magnitude_and_sign_is_torchvisions() -> None:
    for sub_policy in POLICY:
        for name, _, level in sub_policy:
            magnitudes, is_signed = SPACE[name]
            assert OPERATIONS[name][1] == is_signed
            if magnitudes.dim():
                assert magnitude(name, level, 32, 32) == float(magnitudes[level]), name


@pytest.mark.parametrize("channels, side", [(3, 32), (1, 28), (1, 8)])
@pytest.mark.parametrize("policy", range(25))
def test_a_forced_sub_policy_gives_torchvisions_image(policy: int, channels: int, side: int) -> None:
    images = smooth_images(4, channels, side)
    certain = [p == 1.0 for _, p, _ in POLICY[policy]]
    impossible = [p == 0.0 for _, p, _ in POLICY[policy]]
    for signs in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        for active in [(True, True), (True, False), (False, True), (False, False)]:
            really = tuple((a and not i) or c for a, i, c in zip(active, impossible, certain, strict=True))
            draws = forced(policy, active, signs).expand(4, -1)
            expected = torch.stack([transform_alone(image, policy, (really[0], really[1]), signs) for image in images])
            assert torch.equal(autoaugment(images, draws), expected), (POLICY[policy], signs, active)


@pytest.mark.parametrize("channels, side", [(3, 32), (1, 28)])
@pytest.mark.parametrize("policy", range(25))
def test_what_an_image_leaves_behind_has_the_fill(policy: int, channels: int, side: int) -> None:
    images = smooth_images(4, channels, side)
    impossible = [p == 0.0 for _, p, _ in POLICY[policy]]
    draws = forced(policy, (True, True), (0, 1)).expand(4, -1)
    really = (not impossible[0], not impossible[1])
    expected = torch.stack([transform_alone(image, policy, really, (0, 1), 128) for image in images])
    assert torch.equal(autoaugment(images, draws, 128), expected)
    moves = {name for name, _, _ in POLICY[policy]} & {"ShearY", "TranslateX", "TranslateY", "Rotate"}
    assert torch.equal(autoaugment(images, draws), expected) != bool(moves)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_its_batch(channels: int) -> None:
    images = smooth_images(300, channels, 20)
    before, draws = images.clone(), torch.rand((300, DRAWS), generator=generator(3, "draws"))
    together = autoaugment(images, draws)
    assert torch.equal(images, before)
    assert not torch.equal(together, images)
    alone = torch.cat([autoaugment(images[i : i + 1], draws[i : i + 1]) for i in range(300)])
    assert torch.equal(together, alone)
    order = torch.randperm(300, generator=generator(3, "order"))
    assert torch.equal(autoaugment(images[order], draws[order]), together[order])


def test_frequencies_of_outcomes_are_those_of_the_policy() -> None:
    """Chi-square over what happens to one image, where outcomes of equal pixels are one outcome."""
    image, count = smooth_images(2, 3)[1:], 40_000
    expected: dict[bytes, float] = {}
    for policy, ((_, first, _), (_, second, _)) in enumerate(THEIRS.policies):
        for active in [(True, True), (True, False), (False, True), (False, False)]:
            chance = (first if active[0] else 1 - first) * (second if active[1] else 1 - second)
            for signs in [(0, 0), (0, 1), (1, 0), (1, 1)]:
                key = transform_alone(image[0], policy, active, signs).numpy().tobytes()
                expected[key] = expected.get(key, 0.0) + chance / 100
    draws = torch.rand((count, DRAWS), generator=generator(0, "draws"))
    observed: dict[bytes, int] = {}
    for result in autoaugment(image.expand(count, -1, -1, -1), draws).numpy():
        observed[result.tobytes()] = observed.get(result.tobytes(), 0) + 1
    assert set(observed) <= set(expected)
    likely = {key: count * chance for key, chance in expected.items() if count * chance >= 10}
    statistic = sum((observed.get(key, 0) - mean) ** 2 / mean for key, mean in likely.items())
    assert len(likely) > 60
    assert statistic < len(likely) + 5 * (2 * len(likely)) ** 0.5
