"""AutoAugment's CIFAR-10 policy on whole batches: images that share an operation are transformed in one call.

Each image draws one of 25 sub-policies: two operations, each with a probability and a level, some with a random sign.

Source    Cubuk et al., CVPR 2019, arXiv:1805.09501, table 7; magnitudes of torchvision.transforms.AutoAugment
Differs   nothing in distribution; a batch takes few large calls where torchvision transforms image by image. With fill
          128 it is the policy of BALMS's code (which GLAG follows), but for two things there: shears are bicubic, and
          rotations always turn the same way
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor

from longtail.loading.colour import adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness
from longtail.spec import Spec

Operation = Callable[[Tensor, Tensor, int], Tensor]  # (G, C, H, W) uint8, (G,) float64 magnitudes, fill -> images

DRAWS = 5  # uniforms per image: sub-policy, two probabilities, two signs
LEVELS = 10

# (operation, probability, level), twice; a level of 0 where an operation has none
POLICY = [
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
]


class AutoAugment(Spec):
    """The policy, and what it leaves behind where an image has moved away.

    Args:
        fill: grey level in [0, 255]; 0 (black) is torchvision's, 128 that of BALMS and GLAG.
    """

    name: Literal["autoaugment"]
    fill: int = Field(ge=0, le=255)


def _form(value: object) -> str | None:
    if isinstance(value, dict | AutoAugment):
        return "filled"
    return "named" if value in ("none", "autoaugment") else None


Policy = Annotated[
    Annotated[Literal["none", "autoaugment"], Tag("named")] | Annotated[AutoAugment, Tag("filled")],
    Discriminator(
        _form,
        custom_error_type="policy",
        custom_error_message="choose none, autoaugment (black fill), or {name: autoaugment, fill: 128}",
    ),
]


def autoaugment(images: Tensor, draws: Tensor, fill: int = 0) -> Tensor:
    """Apply the policy.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.
        draws: (B, 5) uniforms in [0, 1).
        fill: grey level of what a shear, a translation or a rotation leaves behind.

    Returns:
        (B, C, H, W) uint8; an image depends on its own row of draws alone.
    """
    images, choices = images.clone(), (draws[:, 0].double() * len(POLICY)).long()
    for step in (0, 1):
        probabilities = torch.tensor([policy[step][1] for policy in POLICY])[choices]
        is_active = draws[:, 1 + step] < probabilities
        signs = torch.where(draws[:, 3 + step] < 0.5, -1.0, 1.0).double()
        _apply_step(images, choices, step, is_active, signs, fill)
    return images


def _apply_step(images: Tensor, choices: Tensor, step: int, is_active: Tensor, signs: Tensor, fill: int) -> None:
    """Apply the first or the second operations, in place."""
    height, width = images.shape[-2:]
    magnitudes = torch.tensor([magnitude(p[step][0], p[step][2], height, width) for p in POLICY], dtype=torch.float64)
    for name, (operation, is_signed) in OPERATIONS.items():
        uses = torch.tensor([policy[step][0] == name for policy in POLICY])
        rows = torch.nonzero(uses[choices] & is_active).flatten()
        if len(rows):
            levels = magnitudes[choices[rows]]
            images[rows] = operation(images[rows], levels * signs[rows] if is_signed else levels, fill)


@lru_cache(maxsize=1024)
def magnitude(name: str, level: int, height: int, width: int) -> float:
    """Return what a level means: a fraction for shears, pixels, degrees, bits, a threshold, or a change of a factor."""
    if name == "Posterize":
        return 8 - round(level / ((LEVELS - 1) / 4))
    first, last = {
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150 / 331 * width),
        "TranslateY": (0.0, 150 / 331 * height),
        "Rotate": (0.0, 30.0),
        "Solarize": (255.0, 0.0),
    }.get(name, (0.0, 0.9))
    return float(torch.linspace(first, last, LEVELS)[level])


def _posterize(images: Tensor, magnitudes: Tensor, fill: int) -> Tensor:
    masks = 256 - 2 ** (8 - magnitudes.long())
    return images & masks.to(torch.uint8).view(-1, 1, 1, 1)


def _solarize(images: Tensor, magnitudes: Tensor, fill: int) -> Tensor:
    return torch.where(images >= magnitudes.float().view(-1, 1, 1, 1), ~images, images)


def _auto_contrast(images: Tensor, magnitudes: Tensor, fill: int) -> Tensor:
    lowest, highest = (extreme.float() for extreme in (images.amin((2, 3), True), images.amax((2, 3), True)))
    is_flat = lowest == highest
    scale = torch.where(is_flat, 1.0, 255 / (highest - lowest))
    return (images - lowest.masked_fill(is_flat, 0)).mul_(scale).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, magnitudes: Tensor, fill: int) -> Tensor:
    from torchvision.transforms.v2.functional import equalize  # here, since importing torchvision takes a second

    equalized: Tensor = equalize(images)
    return equalized


def _move(name: str) -> Operation:
    """Make a geometric operation: its nearest-neighbour source pixels, looked up."""

    def move(images: Tensor, magnitudes: Tensor, fill: int) -> Tensor:
        sources = torch.stack([_sources(name, value, *images.shape[-2:]) for value in magnitudes.tolist()])
        with_outside = torch.nn.functional.pad(images.flatten(2), (1, 0), value=fill)
        index = sources[:, None].expand(-1, images.shape[1], -1)
        return with_outside.gather(2, index).view_as(images)

    return move


@lru_cache(maxsize=1024)
def _sources(name: str, value: float, height: int, width: int) -> Tensor:
    """Return for each target pixel 1 + the index of its source, or 0 outside the image: (H * W,) int64.

    torchvision moves an image whose pixels say where they are, so that these are exactly its pixels.
    """
    from torchvision.transforms.v2 import functional

    moved: Tensor
    places = torch.arange(1.0, height * width + 1).view(1, height, width)
    if name == "Rotate":
        moved = functional.rotate(places, value)
    elif name == "ShearY":
        shear = [0.0, math.degrees(math.atan(value))]
        moved = functional.affine(places, 0.0, [0, 0], 1.0, shear, center=[0, 0])
    else:
        shift = [int(value), 0] if name == "TranslateX" else [0, int(value)]
        moved = functional.affine(places, 0.0, shift, 1.0, [0.0, 0.0])
    return moved.flatten().long()


OPERATIONS: dict[str, tuple[Operation, bool]] = {  # and whether it takes a sign
    "ShearY": (_move("ShearY"), True),
    "TranslateX": (_move("TranslateX"), True),
    "TranslateY": (_move("TranslateY"), True),
    "Rotate": (_move("Rotate"), True),
    "Brightness": (lambda images, change, _: adjust_brightness(images, 1 + change), True),
    "Color": (lambda images, change, _: adjust_saturation(images, 1 + change), True),
    "Contrast": (lambda images, change, _: adjust_contrast(images, 1 + change), True),
    "Sharpness": (lambda images, change, _: adjust_sharpness(images, 1 + change), True),
    "Posterize": (_posterize, False),
    "Solarize": (_solarize, False),
    "AutoContrast": (_auto_contrast, False),
    "Equalize": (_equalize, False),
    "Invert": (lambda images, *_: ~images, False),
}
