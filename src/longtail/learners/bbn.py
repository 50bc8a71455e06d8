"""BBN: two branches on one backbone, for the data as it is and for its reverse, with weight moving to the second.

    alpha = 1 - (T / Tmax)^2
    z = W 2 [alpha f_c, (1 - alpha) f_r] + b,   L = alpha loss(z, y_c) + (1 - alpha) loss(z, y_r)

f_c is the conventional branch's feature of an image of the first sampler, with label y_c; f_r the re-balancing branch's
of another image, with y_r, of the second sampler, `reversed`, which draws rare classes most. At test alpha is 1/2 and
the image the same: z = W [f_c, f_r] + b is what the network does anyway.

Source    Zhou et al., CVPR 2020, arXiv:1912.02413, section 4, and its released code
Differs   T counts from 0, as in the code: alpha is 1 in the first epoch and above 0 in the last. Tmax is the number of
          epochs; where the code trains for 90 or 180 it divides by 100 or 200
Limits    alpha = 1: the first batch's objective on the conventional branch, with its features doubled; the other idles
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from longtail.learners.base import LearnerSpec
from longtail.models.fork import BACKBONES, Fork
from longtail.models.network import Network
from longtail.spec import InputError
from longtail.training.loop import Step
from longtail.training.objective import Objective


class BBN(LearnerSpec):
    """Bilateral branches with cumulative learning, on a network that forks."""

    batches: ClassVar[int] = 2

    name: Literal["bbn"] = "bbn"

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains.

        Raises:
            InputError: if the network has one branch.
        """
        return BBNStep(network, objective)


class BBNStep(Step):
    """The mixture of two objectives on the mixed features of two batches."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        fork_of(network)
        self.network, self.objective = network, objective

    def forward(self, conventional: Any, rebalancing: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for two batches of images (B, C, H, W) and labels (B,); draws nothing."""
        alpha = adaptor(progress)
        features = self.features(conventional.images, rebalancing.images, alpha)
        logits = self.network.classifier(features)
        first = self.objective(logits, conventional.labels, progress)
        second = self.objective(logits, rebalancing.labels, progress)
        loss: Tensor = alpha * first + (1 - alpha) * second
        return loss

    def features(self, conventional: Tensor, rebalancing: Tensor, alpha: Tensor) -> Tensor:
        """Return 2 [alpha f_c, (1 - alpha) f_r], (B, 2D), for two batches of images."""
        fork = fork_of(self.network)
        # One pass for each batch, as in the code: BatchNorm's statistics are of one sampler at a time.
        f_c = fork(self.network.maps(conventional, stop=-1), "conventional").mean((2, 3))
        f_r = fork(self.network.maps(rebalancing, stop=-1), "reversed").mean((2, 3))
        share = alpha.to(f_c.dtype)
        return 2 * torch.cat([share * f_c, (1 - share) * f_r], 1)


def adaptor(progress: Tensor) -> Tensor:
    """Return alpha, 0-d, for a progress T / Tmax."""
    return 1 - progress**2


def fork_of(network: Network) -> Fork:
    """Return the last stage of a network that forks.

    Raises:
        InputError: if it does not fork.
    """
    fork = network.stages[-1]
    if not isinstance(fork, Fork):
        raise InputError(
            "network.backbone does not fork, but learner bbn trains two branches. "
            f"Choose one of {', '.join(BACKBONES)} for its row."
        )
    return fork
