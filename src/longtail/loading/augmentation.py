"""What happens to training images: a pure function of the images and of uniforms drawn for a whole epoch at once.

Who augments, in which batch and after which other image never matters: an image and its row of draws give the same bits
alone, in a batch, in a worker. Each step has the distribution of torchvision's transform of a single image.

Source    weak: crop and flip, He et al., CVPR 2016. Strong: Cubuk et al., CVPR 2019, arXiv:1805.09501 and DeVries and
          Taylor, arXiv:1708.04552, together as in Ren et al., NeurIPS 2020, arXiv:2007.10740 (BALMS)
"""

from itertools import permutations
from typing import Literal, Self

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from longtail.images.cropping import CROP_DRAWS, pad_crop, resized_crop
from longtail.images.decoding import to_tensor
from longtail.loading.autoaugment import DRAWS as POLICY_DRAWS
from longtail.loading.autoaugment import AutoAugment, Policy, autoaugment
from longtail.loading.colour import adjust_brightness, adjust_contrast, adjust_saturation
from longtail.spec import Spec


class Augmentation(Spec):
    """Crop, flip, jitter, policy, cutout, in this order.

    Args:
        crop: `pad` pads with zeros and cuts a window out; `resized` is RandomResizedCrop, of the original where images
            are files.
        pad: pixels on each side, for crop `pad`; 0 otherwise.
        flip: left and right, for half of the images.
        jitter: j of ColorJitter(j, j, j, 0); 0 is off.
        policy: `autoaugment` is AutoAugment's CIFAR-10 policy, which leaves black behind moved images, or as
            `{name: autoaugment, fill: 128}` the grey of BALMS's code.
        cutout: side in pixels of the square that becomes black, before the network normalises; 0 is off.
    """

    crop: Literal["none", "pad", "resized"]
    pad: int = Field(ge=0)
    flip: bool
    jitter: float = Field(ge=0)
    policy: Policy
    cutout: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pad and self.crop != "pad":
            raise ValueError(f"pad is {self.pad}, which crop {self.crop} ignores; set pad: 0 or crop: pad")
        return self

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw everything that is random about `count` images: (count, U) float32 uniforms in [0, 1)."""
        return torch.rand((count, sum(self._widths().values())), generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: (B, C, H, W) uint8, C = 1 or 3.
            draws: (B, U), rows of `draw`.

        Returns:
            (B, C, H, W) uint8; the input is left as it is.
        """
        crop = self.split(draws)["crop"]
        if self.crop == "pad":
            images = pad_crop(images, self.pad, crop)
        elif self.crop == "resized":
            images = _resized_crops(images, crop)
        return self.apply_after_crop(images, draws)

    def apply_after_crop(self, images: Tensor, draws: Tensor) -> Tensor:
        """Do the rest of `apply` for images that were cropped when they were decoded."""
        parts = self.split(draws)
        if self.flip:
            images = torch.where(parts["flip"][:, :, None, None] < 0.5, images.flip(-1), images)
        if self.jitter:
            images = color_jitter(images, self.jitter, parts["jitter"])
        if self.policy != "none":
            fill = self.policy.fill if isinstance(self.policy, AutoAugment) else 0
            images = autoaugment(images, parts["policy"], fill)
        return cutout(images, self.cutout, parts["cutout"]) if self.cutout else images

    def split(self, draws: Tensor) -> dict[str, Tensor]:
        """Return which columns of the draws each step reads."""
        widths = self._widths()
        return dict(zip(widths, torch.split(draws, list(widths.values()), dim=1), strict=True))

    def _widths(self) -> dict[str, int]:
        return {
            "crop": {"none": 0, "pad": 2, "resized": CROP_DRAWS}[self.crop],
            "flip": int(self.flip),
            "jitter": 4 if self.jitter else 0,
            "policy": POLICY_DRAWS if self.policy != "none" else 0,
            "cutout": 2 if self.cutout else 0,
        }


def _resized_crops(images: Tensor, draws: Tensor) -> Tensor:
    """Crop image by image, with PIL like the files on disk."""
    height, width = images.shape[-2:]
    pixels = images.permute(0, 2, 3, 1).squeeze(3).numpy()
    crops = [resized_crop(Image.fromarray(p), height, width, row) for p, row in zip(pixels, draws, strict=True)]
    return torch.stack([to_tensor(crop) for crop in crops])


def color_jitter(images: Tensor, jitter: float, draws: Tensor) -> Tensor:
    """Change brightness, contrast and saturation by random factors, in random order.

    Args:
        images: (B, C, H, W) uint8.
        jitter: j; factors are uniform in [max(0, 1 - j), 1 + j].
        draws: (B, 4) uniforms in [0, 1): the order and three factors.

    Returns:
        (B, C, H, W) uint8.

    Source    torchvision.transforms.ColorJitter(j, j, j, 0)
    """
    lowest = max(0.0, 1 - jitter)
    factors = lowest + draws[:, 1:].double() * (1 + jitter - lowest)
    steps = (adjust_brightness, adjust_contrast, adjust_saturation)
    orders = (draws[:, 0].double() * 6).long()
    jittered = torch.empty_like(images)
    for number, order in enumerate(permutations(range(3))):
        rows = torch.nonzero(orders == number).flatten()
        group = images[rows]
        for step in order if len(rows) else ():
            group = steps[step](group, factors[rows, step])
        jittered[rows] = group
    return jittered


def cutout(images: Tensor, side: int, draws: Tensor) -> Tensor:
    """Blacken one square, whose centre is uniform over the pixels and which the border clips.

    Args:
        images: (B, C, H, W) uint8.
        side: pixels.
        draws: (B, 2) uniforms in [0, 1): row and column of the centre.

    Returns:
        (B, C, H, W) uint8.

    Source    DeVries and Taylor, arXiv:1708.04552; their code and BALMS's, with one hole
    Differs   an odd side is that side; the reference makes it even
    """
    height, width = images.shape[-2:]
    inside = []
    for length, draw in ((height, draws[:, 0]), (width, draws[:, 1])):
        first = (draw.double() * length).long()[:, None] - side // 2
        places = torch.arange(length)
        inside.append((places >= first) & (places < first + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
