"""Decoding: any format, mode and size becomes the same square; broken files become one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from longtail.images.cropping import CROP_DRAWS, resized_crop
from longtail.images.decoding import decode, decode_bytes, to_tensor
from longtail.seeding import generator
from longtail.spec import InputError


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator(seed, "image"), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def smooth(height: int, width: int) -> Image.Image:
    return noise(6, 6).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"exif": exif} if exif else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("mode, kind", [(m, "PNG") for m in ("1", "L", "LA", "P", "RGB", "RGBA")])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read_like_pil_converts_it(mode: str, kind: str, channels: int) -> None:
    image = smooth(16, 16).convert(mode)
    expected = to_tensor(image.convert("RGB" if channels == 3 else "L"))
    assert torch.equal(decode_bytes(encoded(image, kind), channels, 16), expected)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_formats(kind: str) -> None:
    image = smooth(96, 96)
    decoded = decode_bytes(encoded(image, kind), 3, 96)
    assert decoded.shape == (3, 96, 96) and decoded.dtype == torch.uint8
    assert (decoded.int() - to_tensor(image).int()).abs().float().mean() < 8


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = smooth(24, 24)
    decoded = decode_bytes(encoded(image.convert("CMYK"), "JPEG"), 3, 24)
    assert (decoded.int() - to_tensor(image).int()).abs().float().mean() < 8


@pytest.mark.parametrize("mode", ["I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(mode: str, channels: int) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.fromarray(levels) if mode == "I;16" else Image.fromarray(levels.astype(np.int32))
    assert image.mode == mode
    decoded = decode_bytes(encoded(image, "TIFF" if mode == "I" else "PNG"), channels, 16)
    assert torch.equal(decoded, torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(channels, -1, -1))


def test_a_palette_with_several_transparent_colours() -> None:
    image = smooth(16, 16).quantize(8)
    image.info["transparency"] = bytes([0, 128, 255, 3])
    decoded = decode_bytes(encoded(image), 3, 16)
    assert torch.equal(decoded, to_tensor(image.convert("RGBA").convert("RGB")))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    image = smooth(32, 32)
    turned = decode_bytes(encoded(image, "JPEG", exif), 3, 32)
    assert torch.equal(turned, decode_bytes(encoded(image, "JPEG"), 3, 32).rot90(-1, (1, 2)))


@pytest.mark.parametrize("height, width, size", [(256, 256, 224), (256, 400, 224), (300, 256, 224), (32, 48, 32)])
def test_clean_is_the_centre_where_nothing_needs_resizing(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    expected = to_tensor(image)[:, (height - size) // 2 :, (width - size) // 2 :][:, :size, :size]
    assert torch.equal(decode_bytes(encoded(image), 3, size), expected)


@pytest.mark.parametrize(
    "height, width, size", [(300, 500, 224), (171, 120, 128), (90, 60, 32), (20, 31, 64), (7, 300, 32)]
)
def test_clean_is_resize_then_centre_crop(height: int, width: int, size: int) -> None:
    image = smooth(height, width)
    shorter = round(size * 256 / 224) if size >= 128 else size
    expected = functional.center_crop(functional.resize(image, shorter), [size, size])
    difference = (decode_bytes(encoded(image), 3, size).int() - to_tensor(expected).int()).abs().float()
    assert difference.mean() < 2.5


def test_extreme_strips_are_decoded() -> None:
    assert decode_bytes(encoded(noise(1, 20_000)), 3, 224).shape == (3, 224, 224)


def test_a_file_is_decoded_like_its_bytes(tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "a.png")
    assert torch.equal(decode(tmp_path / "a.png", 16, None), decode_bytes((tmp_path / "a.png").read_bytes(), 3, 16))


def test_a_crop_is_cut_out_of_the_original(tmp_path: Path) -> None:
    image = noise(80, 60)
    image.save(tmp_path / "a.png")
    draws = torch.rand(CROP_DRAWS, generator=generator(0, "draws"))
    assert torch.equal(decode(tmp_path / "a.png", 16, draws), to_tensor(resized_crop(image, 16, 16, draws)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7])
def test_truncated_images_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(noise(64, 64), kind)
    path = tmp_path / "broken.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"broken\.img.*remove it"):
        decode(path, 16, None)
    with pytest.raises(InputError):
        decode_bytes(path.read_bytes(), 3, 16)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            decode(path, 16, None)


def test_garbage_inside_a_png_is_refused() -> None:
    data = bytearray(encoded(noise(64, 64)))
    data[60:200] = bytes(140)
    with pytest.raises(InputError):
        decode_bytes(bytes(data), 3, 16)
