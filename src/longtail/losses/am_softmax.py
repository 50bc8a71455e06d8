"""AM-softmax: one additive margin on the cosine of every class.

    loss_i = -log softmax(scale (z_i - margin onehot(y)))_y,   z_ik = cos(w_k, f_i)

With `reweighting: {beta: 0.9999, start: 0.8, divisor: weights}` it is M-DRW, the row between cross entropy and LDAM-DRW
in RSG's tables.

Source    Wang et al., IEEE Signal Processing Letters 2018, arXiv:1801.05599
Differs   no code of M-DRW is public: margin 0.35 and scale 30 are the defaults of the paper, which RSG does not state.
          The scale stands in the loss, so `network.scale` is 1; the trained classifier keeps it
Limits    margin = 0: cross entropy of scale z
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec


class AMSoftmax(LossSpec):
    """Cross entropy of scaled cosines, that of the label less the margin.

    Args:
        margin: a cosine.
        scale: of cosines.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = "cosine"

    name: Literal["am_softmax"] = "am_softmax"
    margin: float = Field(ge=0)
    scale: float = Field(gt=0)

    @property
    def logit_scale(self) -> float:
        """Return the scale."""
        return self.scale

    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K) cosines.
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class (only K is used).
            progress: 0-d, share of training done in [0, 1) (unused).

        Returns:
            (B,) in nats, float32 or wider.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        margins = self.margin * F.one_hot(labels, len(class_counts)).to(wide)
        return F.cross_entropy(self.scale * (logits.to(wide) - margins), labels, reduction="none")
