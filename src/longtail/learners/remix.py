"""Remix: mixup whose label goes to the rarer class where it is much rarer and not too faint.

    x' = l x_a + (1 - l) x_b,   L = mean of l_i loss(f(x'_i), a_i) + (1 - l_i) loss(f(x'_i), b_i)
    l_i = 0   if n_a / n_b >= kappa and l < tau
          1   if n_a / n_b <= 1 / kappa and 1 - l < tau
          l   otherwise;                                           l ~ Beta(alpha, alpha) per batch

Source    Chou et al., ECCV 2020 workshops, arXiv:2007.03943, its rule from memory, checked against the code of
          imbalanced-DL (which has no code of the authors to follow); l per batch as there, kappa 3, tau 0.5, alpha 1
Differs   from the code of Bag of Tricks, whose losses are averaged before they meet l_i, so that only the mean of l_i
          enters; with class weights (DRW), see longtail.learners.mixing
Limits    kappa above n_max / n_min, tau = 0, or equal counts with kappa > 1: mixup; alpha = 0: plain learning
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.learners.base import LearnerSpec
from longtail.learners.mixing import blend, draw_partners, draw_share, mixed_objective
from longtail.models.network import Network
from longtail.training.loop import Step
from longtail.training.objective import Objective


class Remix(LearnerSpec):
    """The objective of blended images, with labels in favour of rare classes.

    Args:
        alpha: of the Beta that l is drawn from; 1 in the paper, 0 for no mixing.
        kappa: how many times rarer a class must be to get the whole label; 3 in the paper.
        tau: share of the frequent image below which it loses its label; 0.5 in the paper.
    """

    name: Literal["remix"] = "remix"
    alpha: float = Field(ge=0)
    kappa: float = Field(ge=1)
    tau: float = Field(ge=0, le=1)

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains."""
        return RemixStep(network, objective, self)


class RemixStep(Step):
    """objective(network(blends), both labels by their own shares)."""

    def __init__(self, network: Network, objective: Objective, spec: Remix) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,).

        Draws l, then the partners.
        """
        images, labels = batch
        share = draw_share(self.spec.alpha, generator)
        partners = draw_partners(labels, generator)
        logits = self.network(blend(images, images[partners], images.new_full((), share)))
        counts = self.objective.class_counts[labels]
        shares = label_shares(share, counts, counts[partners], self.spec.kappa, self.spec.tau).to(images.dtype)
        return mixed_objective(self.objective, logits, labels, labels[partners], shares, progress)


def label_shares(share: float, counts: Tensor, others: Tensor, kappa: float, tau: float) -> Tensor:
    """Return l_i, the share of an image's own label.

    Args:
        share: l, in [0, 1].
        counts, others: (B,) training images of the image's class and of its partner's.

    Returns:
        (B,) float64 in [0, 1].
    """
    own, other = counts.double(), others.double()
    yields = own >= kappa * other if share < tau else torch.zeros_like(own, dtype=torch.bool)
    gains = kappa * own <= other if 1 - share < tau else torch.zeros_like(own, dtype=torch.bool)
    return torch.where(yields, 0.0, torch.where(gains, 1.0, torch.full_like(own, share)))
