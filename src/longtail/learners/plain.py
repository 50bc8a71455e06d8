"""Plain learning: minimise the objective on batches of one sampler.

Source    the stage one of decoupled training, Kang et al., ICLR 2020, arXiv:1910.09217
Differs   nothing
Limits    every other learner becomes this one when its own parts are switched off
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from longtail.learners.base import LearnerSpec
from longtail.models.network import Network
from longtail.training.loop import Step
from longtail.training.objective import Objective


class Plain(LearnerSpec):
    """Minimise the objective of logits and labels."""

    several_devices: ClassVar[bool] = True

    name: Literal["plain"] = "plain"

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains."""
        return PlainStep(network, objective)


class PlainStep(Step):
    """objective(network(images), labels)."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,)."""
        images, labels = batch
        loss: Tensor = self.objective(self.network(images), labels, progress)
        return loss
