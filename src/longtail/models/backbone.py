"""What a family of backbones says of each net it offers; `longtail.models` unites the families."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Backbone:
    """A net by name: how to build it, and its properties before it is built.

    Args:
        build: (channels, image_size) -> stages, each (B, C, H, W) -> (B, C', H', W'); draws its initial weights from
            torch's global generator.
        feature_dim: D, channels of the last maps.
        min_size: smallest side of an image in pixels: below it the last maps would be padding, or nothing.
        channels: the only number of image channels it takes, or None for any.
        standardised: whether it wants images standardised by the data's mean and std, or as they are, in [0, 1].
    """

    build: Callable[[int, int], list[nn.Module]]
    feature_dim: int
    min_size: int
    channels: int | None = None
    standardised: bool = True

    @property
    def images(self) -> str:
        """Say which images it takes."""
        return f"images of {self.channels or 'any number of'} channels from {self.min_size} pixels a side"

    def takes(self, channels: int, image_size: int) -> bool:
        """Return whether it takes images of so many channels and pixels a side."""
        return self.channels in (None, channels) and image_size >= self.min_size
