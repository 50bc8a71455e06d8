"""Encoded images in, square uint8 tensors out: one way to decode and to crop, for training, evaluation and serving."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from longtail.images.cropping import resized_crop
from longtail.spec import InputError

CENTRE = 224 / 256  # share of the shorter side that a clean image keeps, at sizes where the field evaluates like that
CENTRE_FROM = 128  # px; smaller images are kept to the edge, as the field does for CIFAR

# What PIL raises for broken files; SyntaxError is a broken PNG.
BROKEN = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, IndexError, KeyError, struct.error, zlib.error)


def decode(path: Path, size: int, crop_draws: Tensor | None) -> Tensor:
    """Decode a file to RGB.

    Args:
        size: side of the result in pixels.
        crop_draws: (CROP_DRAWS,) uniforms for a random resized crop of the original; None for the clean image: the
            shorter side resized to size * 256/224 and the centre cropped, or to size itself below 128 pixels.

    Returns:
        (3, size, size) uint8.

    Raises:
        InputError: it cannot be read, is no image, or only the beginning of one; the message has its path.
    """
    try:
        image = _open(path.read_bytes(), 3)
    except OSError as error:
        raise InputError(f"data.path: {path} cannot be read ({error.strerror}); restore it or remove it.") from None
    except InputError as error:
        raise InputError(f"data.path: {path} is no readable image ({error}); replace the file or remove it.") from None
    return to_tensor(_clean(image, size) if crop_draws is None else resized_crop(image, size, size, crop_draws))


def decode_bytes(data: bytes, channels: int, size: int) -> Tensor:
    """Decode an image of any format, mode and size to the clean square that evaluation sees (see `decode`).

    Args:
        channels: 1 for grey, 3 for RGB.
        size: side in pixels.

    Returns:
        (channels, size, size) uint8.

    Raises:
        InputError: no image, or only the beginning of one; the message is the bare reason.
    """
    return to_tensor(_clean(_open(data, channels), size))


def to_tensor(image: Image.Image) -> Tensor:
    """Return a PIL image of mode L or RGB as (C, H, W) uint8."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _open(data: bytes, channels: int) -> Image.Image:
    """Decode to mode L or RGB, upright, without transparency.

    Colours under transparent pixels are taken as they are, as torchvision's loader does.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return _to_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise InputError("of no known image format") from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(reason) from None


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits, of which PIL would clip all but the darkest 256
        levels = np.asarray(image).astype(np.float64).clip(0, 65535)
        image = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns of a palette with several transparent colours otherwise
    return image if image.mode == mode else image.convert(mode)


def _clean(image: Image.Image, size: int) -> Image.Image:
    """Resize the centre; only what is kept, so that a strip of 1 x 50,000 pixels costs nothing."""
    side = min(image.size) * (CENTRE if size >= CENTRE_FROM else 1.0)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
