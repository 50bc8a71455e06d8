"""Random crops as functions of uniforms: the padded crop of CIFAR, the resized crop of ImageNet."""

import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

ATTEMPTS = 10
CROP_DRAWS = 2 * ATTEMPTS + 2  # uniforms per resized crop: area and ratio of each attempt, then the place
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def pad_crop(images: Tensor, pad: int, draws: Tensor) -> Tensor:
    """Pad with zeros and cut a window of the old size out at random.

    Args:
        images: (B, C, H, W) uint8.
        pad: pixels on each side.
        draws: (B, 2) uniforms in [0, 1): row and column.

    Returns:
        (B, C, H, W) uint8.

    Source    torchvision.transforms.RandomCrop(size, padding=pad)
    """
    height, width = images.shape[-2:]
    offsets = (draws.double() * (2 * pad + 1)).long()
    windows = functional.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


def resized_crop(image: Image.Image, height: int, width: int, draws: Tensor) -> Image.Image:
    """Cut a random box out and resize it, bilinear and antialiased.

    Args:
        height, width: of the result.
        draws: (CROP_DRAWS,) uniforms in [0, 1).

    Source    torchvision.transforms.RandomResizedCrop, with its default areas and ratios
    """
    top, left, box_height, box_width = crop_box(image.height, image.width, draws.tolist())
    box = image.crop((left, top, left + box_width, top + box_height))
    return box.resize((width, height), Image.Resampling.BILINEAR)


def crop_box(height: int, width: int, draws: list[float]) -> tuple[int, int, int, int]:
    """Return top, left, height, width: the first attempt that fits, else the largest central box of a valid ratio."""
    for area, ratio in zip(draws[0 : 2 * ATTEMPTS : 2], draws[1 : 2 * ATTEMPTS : 2], strict=True):
        target = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        aspect = math.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
        box_height, box_width = round(math.sqrt(target / aspect)), round(math.sqrt(target * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(draws[-2] * (height - box_height + 1))
            return top, int(draws[-1] * (width - box_width + 1)), box_height, box_width
    box_height, box_width = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
