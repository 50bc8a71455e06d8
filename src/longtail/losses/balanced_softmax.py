"""Balanced softmax (BS): the softmax of a network that is to answer under a uniform class distribution.

    loss_i = -log(n_y e^z_y / sum_j n_j e^z_j)

The network is trained with the prior of the training set added, and predicts without it: by the raw logits.

Source    Ren et al., NeurIPS 2020, arXiv:2007.10740
Differs   a class without training images is left out of the sum by an offset of -10000, where the formula has log 0
Limits    equal counts: cross entropy; logit adjustment with tau = 1 is the same loss, as is GraLoss at its end
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec

EMPTY = -1e4  # nats; exp of it is 0 in every precision


class BalancedSoftmax(LossSpec):
    """Cross entropy on z + log n."""

    name: Literal["balanced_softmax"] = "balanced_softmax"

    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K).
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class.
            progress: 0-d, share of training done in [0, 1) (unused).

        Returns:
            (B,) in nats, float32 or wider.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        offsets = class_counts.to(wide).log().clamp(min=EMPTY)
        return F.cross_entropy(logits.to(wide) + offsets, labels, reduction="none")
