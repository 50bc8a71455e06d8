"""Own images for tests: JPEG and PNG files of different sizes and modes, each different from every other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COUNTS = {"ant": 200, "bee": 80, "cat": 30, "dog": 8, "elk": 1}
FEW = {"ant": 12, "bee": 6}
OWN: dict[str, Any] = {  # keys of a source that finds images of one's own, besides its name and path
    "image_size": 16,
    "memory_gigabytes": 1.0,
    "test_per_class": 10,
    "profile": "natural",
    "imbalance_factor": None,
    "pareto_shape": None,
    "subset": None,
    "seed": None,
    "validation": {"source": "holdout", "per_class": 5},
}
KINDS = (("L", ".png"), ("RGBA", ".png"), ("P", ".png"), ("RGB", ".jpg"), ("CMYK", ".jpeg"))


def write_photos(folder: Path, counts: Mapping[str, int], first: int = 0) -> None:
    """Write a folder of images per class, numbered from `first`; equal arguments write equal files."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            mode, suffix = KINDS[(label + number) % len(KINDS)]
            photo(1000 * label + number).convert(mode).save(folder / name / f"{number}{suffix}")


def photo(seed: int) -> Image.Image:
    """Draw a picture of 12 to 40 pixels a side."""
    draws = np.random.default_rng(seed)
    height, width = draws.integers(12, 41, size=2)
    return Image.fromarray(draws.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
