"""Logit-adjusted cross entropy (LA): a margin between any two classes of the ratio of their priors.

    loss_i = -log softmax(z_i + tau log pi)_y,   pi_j = n_j / N

Predictions use the raw logits: the network has learnt what is left when the prior is known. tau = 1 is consistent for
the balanced error. (The post-hoc form, z - tau log pi after plain training, is not to be used on top.)

Source    Menon et al., ICLR 2021, arXiv:2007.07314
Differs   a class without training images is left out by a log prior of -10000, where the formula has log 0
Limits    tau = 0 or equal counts: cross entropy; tau = 1: balanced softmax; GraLoss at a(t) = tau
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec

EMPTY = -1e4  # nats; exp of it is 0 in every precision


class LogitAdjusted(LossSpec):
    """Cross entropy on z + tau log pi.

    Args:
        tau: any number; 1 in the paper's tables.
    """

    name: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float

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
        counts = class_counts.to(wide)  # first, since int64 / int64 is float32 whatever the logits are
        log_prior = (counts / counts.sum()).log().clamp(min=EMPTY)
        return F.cross_entropy(logits.to(wide) + self.tau * log_prior, labels, reduction="none")
