"""LDAM: label-distribution-aware margins, the larger the rarer the class.

    loss_i = -log softmax(scale (z_i - m_y onehot(y)))_y,   m_j = max_margin (n_min / n_j)^(1/4),   z_ik = cos(w_k, f_i)

Margins that fall with the fourth root of n_j minimise the paper's bound on the balanced error. LDAM-DRW is this loss
with `reweighting: {beta: 0.9999, start: 0.8, divisor: weights}`, and LDAM-DRS with a deferred sampler.

Source    Cao et al., NeurIPS 2019, arXiv:1906.07413
Differs   the scale stands in the loss, so `network.scale` is 1, and the trained classifier keeps it (the official code
          drops it, and its probabilities are those of bare cosines: the right class wins, but never by much)
Limits    max_margin = 0: cross entropy of scale z; equal counts: AM-softmax with margin max_margin
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec


class LDAM(LossSpec):
    """Cross entropy of scaled cosines, that of the label less its class's margin.

    Args:
        max_margin: the margin of the smallest class, a cosine; 0.5 for CIFAR, 0.3 for ImageNet-LT.
        scale: of cosines; 30 in the published tables.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = "cosine"

    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(ge=0)
    scale: float = Field(gt=0)

    @property
    def logit_scale(self) -> float:
        """Return the scale."""
        return self.scale

    def margins(self, class_counts: Tensor) -> Tensor:
        """Return m_j, (K,) in [0, max_margin], for counts (K,) of a floating type; an empty class has the largest."""
        smallest = torch.where(class_counts > 0, class_counts, torch.inf).min()
        return self.max_margin * (smallest / class_counts.clamp(min=smallest)) ** 0.25

    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K) cosines.
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class.
            progress: 0-d, share of training done in [0, 1) (unused).

        Returns:
            (B,) in nats, float32 or wider.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        margins = F.one_hot(labels, len(class_counts)) * self.margins(class_counts.to(wide))
        return F.cross_entropy(self.scale * (logits.to(wide) - margins), labels, reduction="none")
