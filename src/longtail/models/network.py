"""The network: a list of stages, a mean-pool, a classifier. It is independent of the method that trains it."""

from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from longtail.models.classifier import CosineClassifier, LinearClassifier


class Normalize(nn.Module):
    """Standardise images in [0, 1] by the data's mean and std per channel; in the network: none leaves it out."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to standardised images."""
        return (images - self.mean) / self.std


class Network(nn.Module):
    """A backbone of stages and a classifier.

    Args:
        stages: modules (B, C, H, W) -> (B, C', H', W'); the first one takes images in [0, 1].
        classifier: (B, D) -> (B, K).
        image_shape: (C, H, W) of the images, which `map_shape` needs; None where no caller needs it.
    """

    def __init__(
        self,
        stages: list[nn.Module],
        classifier: LinearClassifier | CosineClassifier,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier
        self.image_shape = image_shape

    def maps(self, images: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages[start:stop] (slice semantics, so -1 counts from the end) on images or on maps (B, C, H, W)."""
        maps = images
        for stage in list(self.stages)[start:stop]:
            maps = stage(maps)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Mean-pool the last maps: images (B, C, H, W) in [0, 1] to features (B, D)."""
        return self.maps(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to logits (B, K)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits

    @torch.no_grad()
    def map_shape(self, stop: int | None = None) -> tuple[int, int, int]:
        """Return (C, H, W) of the maps behind stages[:stop]."""
        assert self.image_shape is not None
        probe = deepcopy(self.stages[:stop]).cpu().eval()
        maps = torch.zeros(1, *self.image_shape)
        for stage in probe:
            maps = stage(maps)
        channels, height, width = maps.shape[1:]
        return channels, height, width

    def with_statistics(self, statistics: dict[str, Tensor]) -> Self:
        """Return a copy whose BatchNorm buffers of those names (of the state_dict) have those values."""
        copy = deepcopy(self)
        buffers = dict(copy.named_buffers())
        for name, value in statistics.items():
            buffers[name].copy_(value)
        return copy

    def freeze(self) -> Self:
        """Stop gradients and put BatchNorm in eval mode, as stage two wants it."""
        return self.requires_grad_(False).eval()
