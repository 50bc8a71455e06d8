"""Focal loss: samples that the network already gets right count for less.

    loss_i = (1 - p_y)^gamma (-log p_y),   p = softmax(z)                           with class weights w: w_y loss_i
    loss_i = (1 - p_y^w_y)^gamma w_y (-log p_y)                                     `modulating_factor: weighted`

Class-balanced focal (Cui et al., CVPR 2019) is this loss with `reweighting`.

Source    Lin et al., ICCV 2017, arXiv:1708.02002; `weighted`: the codes of LDAM-DRW and RSG, which take
          p = exp(-w CE), and whose mean over the batch is `reweighting.divisor: batch`
Differs   softmax over classes, as the tables of long-tailed recognition have it, where the paper's detector (and Cui et
          al.) sum K sigmoids
Limits    gamma = 0: cross entropy; all weights 1: both forms are one
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec


class Focal(LossSpec):
    """Cross entropy, modulated by how far p_y is from 1.

    Args:
        gamma: at least 0; 1 in the tables of LDAM, 2 in the paper.
        modulating_factor: whether 1 - p_y is that of the network (`unweighted`), or of the class-weighted cross entropy
            (`weighted`), which takes a rare class's sample for less certain and a frequent one's for more.
    """

    name: Literal["focal"] = "focal"
    gamma: float = Field(ge=0)
    modulating_factor: Literal["unweighted", "weighted"]

    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K).
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class (unused).
            progress: 0-d, share of training done in [0, 1) (unused).

        Returns:
            (B,) in nats, float32 or wider.
        """
        return self._modulated(_cross_entropy(logits, labels))

    def weighted(
        self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the loss per sample with class weights (B,), outside the modulating factor or inside it."""
        if self.modulating_factor == "weighted":
            return self._modulated(weights * _cross_entropy(logits, labels))
        return super().weighted(logits, labels, class_counts, progress, weights)

    def _modulated(self, losses: Tensor) -> Tensor:
        # Below 1, a power has an infinite slope at 0, which meets a cross entropy of 0 where p_y rounds to 1.
        doubt = -torch.expm1(-losses)
        return doubt.clamp(min=torch.finfo(losses.dtype).tiny) ** self.gamma * losses


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), labels, reduction="none")
