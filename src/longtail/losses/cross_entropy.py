"""Cross entropy (CE): the plain loss that a long tail breaks.

    loss_i = -log softmax(z_i)_y

Source    textbook; the baseline of every table
Differs   nothing
Limits    every other loss here becomes this one, when class counts are equal or at some value of its numbers
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec


class CrossEntropy(LossSpec):
    """-log softmax(z)_y per sample."""

    name: Literal["cross_entropy"] = "cross_entropy"

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
        return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="none")
