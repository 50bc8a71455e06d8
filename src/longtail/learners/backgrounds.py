"""Background masks: where in an image a network does not see the class, and whether it is sure of that class.

    M = (1 - CAM)^2,   CAM: the activation map of the image's class, ReLU, stretched to [0, 1], bicubic to image size

Source    Shi et al., NeurIPS 2023, arXiv:2310.18236, and its released code
Differs   a map that is flat or no number is told apart: the code divides by its range, and NaN enters its bank
Limits    with a cosine classifier the maps mean nothing
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.activation import activation_maps, min_max


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside the block, and each of its modules back in its own mode after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def confident(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Tell for logits (B, K) whether the label's probability reaches the threshold, (B,) bool."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).softmax(1).gather(1, labels[:, None])[:, 0] >= threshold


def background_masks(maps: Tensor, weight: Tensor, labels: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Return how much of the background each pixel is, as the CAM of the image's class says.

    Args:
        maps: (B, D, H', W'), the network's last.
        weight: (K, D).
        labels: (B,) int64.
        size: (H, W) of the images.

    Returns:
        (B, 1, H, W) in [0, 1]; (B,) bool, whether the CAM is flat and tells nothing.
    """
    stretched, flat = min_max(evidence(activation_maps(maps, weight, labels)))
    return background(enlarge(stretched, size)), flat


def evidence(cams: Tensor) -> Tensor:
    """Keep what speaks for a class, drop what speaks against it."""
    return cams.relu()


def enlarge(cams: Tensor, size: torch.Size) -> Tensor:
    """Resize CAMs (B, H', W') in [0, 1] to (B, 1, H, W); bicubic overshoots, so what leaves [0, 1] is cut."""
    return F.interpolate(cams[:, None], size=tuple(size), mode="bicubic", align_corners=False).clamp(0, 1)


def background(attention: Tensor) -> Tensor:
    """Return M = (1 - CAM)^2."""
    return (1 - attention).square()


def usable(masks: Tensor, flat: Tensor) -> Tensor:
    """Tell which masks (B, 1, H, W) show a background: one that is not flat, in finite numbers; (B,) bool."""
    return masks.isfinite().flatten(1).all(1) & ~flat
