"""Gradual balanced loss (GraLoss): logit adjustment that grows from none to full during training.

    loss_i = -log softmax(z_i + a log pi)_y,   a = s (c^t - 1),   t = epoch / epochs        (GLAG eq. 3, 4)

The network first learns what the head classes teach, then the margin of the tail grows. `convex` is c > 1, `concave`
0 < c < 1 with s < 0; `linear` is their common limit a = s t. Predictions use the raw logits.

Source    GLAG, arXiv:2203.00452, section 4.1
Differs   t = epoch / epochs with epochs counted from 0, so the first epoch is plain CE; the paper leaves both open.
          c other than 2 with s = 1 ends above 1, against "from zero to one": write s = 1 / (c - 1) in params.yaml
          (methods: c = 4 -> s = 0.3333, c = 0.5 -> s = -2)
Limits    s = 0 or t = 0: cross entropy; a = 1: balanced softmax; equal counts: cross entropy
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import LossSpec


class GradualBalanced(LossSpec):
    """Cross entropy on z + a(t) log pi.

    Args:
        form: how a grows with t.
        s: scale; a ends at s (c - 1), or at s for the linear form.
        c: base of the exponential; the linear form has none and takes 1.
    """

    name: Literal["gradual_balanced"] = "gradual_balanced"
    form: Literal["linear", "concave", "convex"]
    s: float
    c: float = Field(gt=0)

    @model_validator(mode="after")
    def _form_matches_base(self) -> Self:
        wanted = {"linear": self.c == 1, "concave": self.c < 1 and self.s <= 0, "convex": self.c > 1 and self.s >= 0}
        if not wanted[self.form]:
            rule = {"linear": "c: 1", "concave": "c below 1 and s below 0", "convex": "c above 1 and s above 0"}
            raise ValueError(f"form {self.form} takes {rule[self.form]}, but c is {self.c:g} and s is {self.s:g}")
        return self

    def alpha(self, progress: Tensor) -> Tensor:
        """Return a(t), 0-d, for progress t in [0, 1) (GLAG eq. 3)."""
        return self.s * progress if self.form == "linear" else self.s * (self.c**progress - 1)

    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K).
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class, all positive.
            progress: 0-d, share of training done in [0, 1).

        Returns:
            (B,) in nats, float32 or wider.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        counts = class_counts.to(wide)  # first, since int64 / int64 is float32 whatever the logits are
        log_prior = (counts / counts.sum()).log()
        return F.cross_entropy(logits.to(wide) + self.alpha(progress).to(wide) * log_prior, labels, reduction="none")
