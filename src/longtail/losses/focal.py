"""Focal loss: samples that the network already gets right count for less.

    loss_i = (1 - p_y)^gamma (-log p_y),   p = softmax(z)

Class-balanced focal (Cui et al., CVPR 2019) is this loss with `reweighting`.

Source    Lin et al., ICCV 2017, arXiv:1708.02002
Differs   softmax over classes, as the tables of long-tailed recognition have it, where the paper's detector (and Cui et
          al.) sum K sigmoids. p_y is that of the network alone: the LDAM repository takes exp(-w CE) with the class
          weight w inside, so that its modulating factor is (1 - p_y^w)^gamma
Limits    gamma = 0: cross entropy
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.spec import Member


class Focal(Member):
    """Cross entropy, modulated by how far p_y is from 1.

    Args:
        gamma: at least 0; 1 in the tables of LDAM, 2 in the paper.
    """

    name: Literal["focal"] = "focal"
    gamma: float = Field(ge=0)

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
        wide = torch.promote_types(logits.dtype, torch.float32)
        ce = F.cross_entropy(logits.to(wide), labels, reduction="none")
        # Below 1, a power has an infinite slope at 0, which meets a cross entropy of 0 where p_y rounds to 1.
        doubt = -torch.expm1(-ce)
        return doubt.clamp(min=torch.finfo(wide).tiny) ** self.gamma * ce
