"""Mixup: learn on blends of two images, with both labels.

    x' = l x_a + (1 - l) x_b,   L = l loss(f(x'), y_a) + (1 - l) loss(f(x'), y_b),   l ~ Beta(alpha, alpha) per batch

b is a permutation of the batch. `until` below 1 ends the training on images as they are, as the fine-tuning without
mixup of Zhang et al. (Bag of Tricks) does; 1 is the stage one of MiSLAS.

Source    Zhang et al., ICLR 2018, arXiv:1710.09412, and its released code, from memory; l per batch, alpha 1 for CIFAR
          and 0.2 for large data as in the code of MiSLAS (CVPR 2021, arXiv:2104.00466); the end without mixup: Zhang
          et al., AAAI 2021 (its order and length from memory)
Differs   with class weights (DRW), see longtail.learners.mixing
Limits    alpha = 0 (l = 1) or until = 0: plain learning
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.learners.base import LearnerSpec
from longtail.learners.mixing import blend, draw_partners, draw_share, mixed_objective, share_while
from longtail.models.network import Network
from longtail.training.loop import Step
from longtail.training.objective import Objective


class Mixup(LearnerSpec):
    """The objective of blended images and both labels.

    Args:
        alpha: of the Beta that l is drawn from; 1 (uniform) for CIFAR, 0.2 for ImageNet-LT. Below 1 one image mostly
            dominates; 0 is no mixing.
        until: progress at which mixing ends; 1 for never. 0.985 leaves the last 3 of 200 epochs.
    """

    name: Literal["mixup"] = "mixup"
    alpha: float = Field(ge=0)
    until: float = Field(ge=0, le=1)

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains."""
        return MixupStep(network, objective, self)


class MixupStep(Step):
    """objective(network(blends), both labels)."""

    def __init__(self, network: Network, objective: Objective, spec: Mixup) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,).

        Draws l, then the partners, in every step: also after `until`, when l counts as 1.
        """
        images, labels = batch
        share = share_while(progress < self.spec.until, draw_share(self.spec.alpha, generator), images)
        partners = draw_partners(labels, generator)
        logits = self.network(blend(images, images[partners], share))
        return mixed_objective(self.objective, logits, labels, labels[partners], share, progress)
