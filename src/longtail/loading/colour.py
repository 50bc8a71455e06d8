"""Colour operations on whole batches, with a factor for each image.

The arithmetic is that of torchvision's transforms of one uint8 image, rounding included. Products and sums are separate
operations and pixel sums are integers, so an image comes out with the same bits whatever else is in the batch: a fused
multiply-add, which vectorised code has and its remainder loop has not, would depend on an image's place.

Source    torchvision.transforms.functional, adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness
"""

import torch
from torch import Tensor


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply pixels.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.
        factors: (B,) float64, at least 0; 1 keeps an image.

    Returns:
        (B, C, H, W) uint8.
    """
    return (images * _broadcast(factors)).clamp_(0, 255).to(torch.uint8)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image; arguments as above. A grey image stays as it is."""
    return blend(images, _grey(images), factors) if images.shape[1] == 3 else images.clone()


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean of the grey image; arguments as above."""
    grey = _grey(images)
    means = grey.sum((1, 2, 3), dtype=torch.int64).float() / grey[0].numel()
    return blend(images, means.view(-1, 1, 1, 1), factors)


def adjust_sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the smoothed image, whose border is the image's own; arguments as above."""
    if min(images.shape[-2:]) <= 2:
        return images.clone()
    smoothed = images.clone()
    smoothed[..., 1:-1, 1:-1] = _smooth(images)
    return blend(images, smoothed, factors)


def blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """Return factor * image + (1 - factor) * other, clamped and truncated to uint8."""
    blended = images * _broadcast(factors)
    return blended.add_(others * _broadcast(1 - factors)).clamp_(0, 255).to(torch.uint8)


def _broadcast(factors: Tensor) -> Tensor:
    return factors.float().view(-1, 1, 1, 1)  # rounded last, as torch rounds the double that torchvision hands it


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).to(torch.uint8)


def _smooth(images: Tensor) -> Tensor:
    """Average each inner pixel, with weight 5/13, and its eight neighbours, with 1/13 each."""
    pixels = images.to(torch.int16)
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    squares = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return (squares + 4 * pixels[..., 1:-1, 1:-1]).float().div_(13).round_().to(torch.uint8)
