"""Label-aware smoothing: the more images a class has, the less a classifier shall trust its labels.

    loss = (1 - eps_y) (-log p_y) + eps_y mean_k(-log p_k)
    eps_k = eps_tail + (eps_head - eps_tail) g(r_k),   r_k = (n_k - n_min) / (n_max - n_min)
    g     = sin(pi r / 2) concave,   r linear,   1 - cos(pi r / 2) convex,   r^power exponential

Source    Zhong et al., CVPR 2021, arXiv:2104.00466 (MiSLAS), and its code
Differs   eps_y is spread over all K classes, as in the code behind the published numbers, not over the K - 1 others;
          that is an eps_y smaller by the factor (K - 1) / K. n_min is that of the classes that have images
Limits    equal counts: eps_tail for all (r is 0/0 there); eps_head = eps_tail: label smoothing; both 0: cross entropy
"""

from collections.abc import Callable
from math import pi
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.spec import Spec


class Exponential(Spec):
    """g(r) = r^power: above 1 only the largest classes are smoothed much."""

    name: Literal["exponential"] = "exponential"
    power: float = Field(gt=0)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "concave": lambda r: torch.sin(pi * r / 2),
    "linear": lambda r: r,
    "convex": lambda r: 1 - torch.cos(pi * r / 2),
}


class LabelAwareSmoothing(Spec):
    """How much each class is smoothed.

    Args:
        eps_head: of the largest class.
        eps_tail: of the smallest.
        form: of g between them; `{name: exponential, power: 2.0}` for a power.
    """

    eps_head: float = Field(ge=0, le=1)
    eps_tail: float = Field(ge=0, le=1)
    form: Literal["concave", "linear", "convex"] | Exponential

    def eps(self, class_counts: Tensor) -> Tensor:
        """Return (K,) float64 for training counts (K,)."""
        counts = class_counts.double()
        low, high = counts[counts > 0].min(), counts.max()
        ratio = ((counts - low) / (high - low).clamp(min=1)).clamp(min=0)
        g = ratio**self.form.power if isinstance(self.form, Exponential) else FORMS[self.form](ratio)
        return self.eps_tail + (self.eps_head - self.eps_tail) * g


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Return the loss of each sample.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        eps: (K,) in [0, 1], of the label's class.

    Returns:
        (B,), in nats, float32 or wider.
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    surprise = -wide.log_softmax(1)
    own = surprise.gather(1, labels[:, None]).squeeze(1)
    share = eps[labels].to(wide.dtype)
    return (1 - share) * own + share * surprise.mean(1)
