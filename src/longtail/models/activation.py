"""Class activation maps: where in an image a network with mean-pool and a linear classifier sees a class.

    CAM_y(h, w) = sum_d weight[y, d] maps[d, h, w]

Source    Zhou et al., CVPR 2016, arXiv:1512.04150
Differs   nothing; for mean-pool and a linear classifier, Grad-CAM is this map divided by H W, with ReLU
Limits    with a cosine classifier the logit is no sum over locations: methods that need maps need a linear one
"""

import torch
from torch import Tensor

FLAT = 1e-6  # a map that varies by less shows nothing


def activation_maps(maps: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the activation map of each image's class, without bias and ReLU.

    Args:
        maps: (B, D, H, W), the last maps of a network.
        weight: (K, D) of its classifier.
        labels: (B,) int64, the class whose map it is.

    Returns:
        (B, H, W) float32, or wider where the maps are.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("bd,bdhw->bhw", weight[labels].to(wide), maps.to(wide))


def min_max(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch each map to [0, 1].

    Args:
        maps: (B, H, W).

    Returns:
        (B, H, W) in [0, 1], 0 all over where a map is flat; (B,) bool, whether it is: max - min <= 1e-6, or no number.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = ~(high - low > FLAT)  # so that NaN is flat
    scaled = torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, high - low))
    return scaled, flat[:, 0, 0]
