"""From losses per sample to the number that is minimised: re-weighting and the weighted mean."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.distributed import summed
from longtail.loading.sampling import effective_number
from longtail.losses import Loss
from longtail.spec import Spec


class Reweighting(Spec):
    """Class-balanced weights by the effective number of samples, optionally deferred (DRW).

        w_k proportional to (1 - beta) / (1 - beta^n_k), normalised to mean 1 over the K classes

    Source    Cui et al., CVPR 2019, arXiv:1901.05555; deferred: Cao et al., NeurIPS 2019, arXiv:1906.07413
    Limits    beta = 0: no weights; beta = 1: w_k proportional to 1 / n_k

    Args:
        beta: in [0, 1]; 0.9999 in the published tables.
        start: progress at which the weights switch on; 0 for class-balanced, 0.8 for DRW.
        divisor: what the sum of weighted losses is divided by: `weights`, their sum (torch's mean of a weighted cross
            entropy), or `batch`, the number of samples. The codes of LDAM-DRW and RSG have the first for cross entropy
            and LDAM, the second for focal loss.
    """

    beta: float = Field(ge=0, le=1)
    start: float = Field(ge=0, le=1)
    divisor: Literal["weights", "batch"]

    def class_weights(self, class_counts: Tensor) -> Tensor:
        """Return (K,) float64 weights with mean 1 for training counts (K,), all positive."""
        inverse = 1 / effective_number(class_counts, self.beta)
        return inverse / inverse.mean()


class Objective(nn.Module):
    """sum(w v loss) / sum(w v), as torch weighs a mean; or / sum(v) where the divisor is the batch.

    w are the class weights, v the samples' own (1 where a learner gives none).

    With several devices the first sum is over this process's share of the batch and the second over all shares, so that
    the processes' values, and their gradients, add up to those of the whole batch.

    Args:
        loss: a member of the `Loss` union.
        reweighting: class weights, or None.
        class_counts: (K,) training images per class.
    """

    class_counts: Tensor
    class_weights: Tensor

    def __init__(self, loss: Loss, reweighting: Reweighting | None, class_counts: Tensor) -> None:
        super().__init__()
        self.loss = loss
        self.start = reweighting.start if reweighting else 1.0
        self.by_weights = reweighting is None or reweighting.divisor == "weights"
        weights = reweighting.class_weights(class_counts) if reweighting else torch.ones(len(class_counts))
        self.register_buffer("class_counts", class_counts.clone(), persistent=False)
        self.register_buffer("class_weights", weights.float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, progress: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the scalar to minimise, in nats.

        Args:
            logits: (B, K).
            labels: (B,) int64.
            progress: 0-d, share of training done in [0, 1).
            weights: (B,) per-sample weights multiplied with the class weights, or None.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        w = torch.where(progress >= self.start, self.class_weights[labels], 1.0).to(wide)
        v = torch.ones_like(w) if weights is None else weights
        losses = self.loss.weighted(logits, labels, self.class_counts, progress, w)
        return (v * losses).sum() / summed((w * v if self.by_weights else v).sum())
