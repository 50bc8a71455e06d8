"""A first-in-first-out memory of images and their background masks: the contexts that CSA lends to other images.

Everything is in buffers of fixed shape, so that a checkpoint holds it and a resumed run draws the same contexts. Images
are kept as float32 in [0, 1], as the step saw them; 128 of CIFAR are 2 MB with their masks.
"""

import torch
from torch import Tensor, nn


class ContextBank(nn.Module):
    """The last `volume` pushed images with their masks.

    Args:
        volume: V, how many contexts it holds.
        image_shape: (C, H, W).
    """

    images: Tensor
    masks: Tensor
    pushed: Tensor

    def __init__(self, volume: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.volume = volume
        self.register_buffer("images", torch.zeros(volume, *image_shape))
        self.register_buffer("masks", torch.zeros(volume, 1, *image_shape[1:]))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Return how many contexts there are to draw, in [0, V]."""
        return min(int(self.pushed), self.volume)

    def empty(self) -> None:
        """Forget all contexts."""
        self.pushed.zero_()

    @torch.no_grad()
    def push(self, images: Tensor, masks: Tensor) -> None:
        """Add contexts, which push out the oldest beyond the volume.

        Args:
            images: (B, C, H, W) in [0, 1]; B may be 0, or above V, when the last V stay.
            masks: (B, 1, H, W) in [0, 1].
        """
        images, masks = images[-self.volume :], masks[-self.volume :]
        slots = (self.pushed + torch.arange(len(images), device=images.device)) % self.volume
        self.images[slots] = images.to(self.images)
        self.masks[slots] = masks.to(self.masks)
        self.pushed += len(images)

    def draw(self, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw contexts without replacement, in the order of one permutation; beyond the bank's size it starts over.

        Args:
            wanted: B.

        Returns:
            Images (B, C, H, W) and masks (B, 1, H, W), of their own memory.
        """
        size = len(self)
        assert size > 0
        order = torch.randperm(size, generator=generator)  # 0 is the oldest context
        ages = order.repeat(-(-wanted // size))[:wanted].to(self.pushed.device)
        slots = (self.pushed - size + ages) % self.volume
        return self.images[slots], self.masks[slots]
