"""What learners on mixed images share: the share of each image, its partner, and the loss of two labels.

    x' = l x_a + (1 - l) x_b,   loss = sum_i (w_a l_i loss(z_i, a_i) + w_b (1 - l_i) loss(z_i, b_i)) / sum of weights

w are the objective's class weights, 1 without re-weighting; the sum of weights is then the batch size.

Source    Zhang et al., ICLR 2018, arXiv:1710.09412 (mixup)
Differs   with class weights, the labels of both sides share one sum of weights; released codes average the losses of a
          and those of b apart, each over the weights of its own labels
Limits    l = 1: the objective of the images as they are
"""

import numpy as np
import torch
from torch import Tensor

from longtail.training.objective import Objective


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Draw l ~ Beta(alpha, alpha), in [0, 1]; alpha = 0 draws nothing and leaves images as they are, l = 1."""
    if alpha == 0:
        return 1.0
    seed = int(torch.randint(2**63 - 1, (), generator=generator))  # torch's Beta takes no generator, numpy's does
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def draw_partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one permutation of the batch: (B,) int64 on the device of labels (B,); an image may be its own partner."""
    return torch.randperm(len(labels), generator=generator).to(labels.device, non_blocking=True)


def share_while(active: Tensor, share: float, images: Tensor) -> Tensor:
    """Return the share as a 0-d tensor of the images' dtype and device where `active` (0-d bool), else 1.

    The choice is made on the device: to read `active` here would wait for all that the device has yet to do.
    """
    return torch.where(active, images.new_full((), share), 1.0)


def blend(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Return share x + (1 - share) x' for images (B, C, H, W), channels last; share is 0-d."""
    mixed = share * images + (1 - share) * others
    return mixed.contiguous(memory_format=torch.channels_last)


def mixed_objective(
    objective: Objective, logits: Tensor, labels: Tensor, others: Tensor, share: Tensor, progress: Tensor
) -> Tensor:
    """Return the objective of images that have two labels each, in nats.

    Args:
        logits: (B, K) of the mixed images.
        labels, others: (B,) int64.
        share: of `labels`, 0-d or (B,), in [0, 1]; `others` have the rest.
        progress: 0-d, share of training done in [0, 1).
    """
    shares = share.expand(len(labels))
    weights = torch.cat([shares, 1 - shares])
    loss: Tensor = objective(torch.cat([logits, logits]), torch.cat([labels, others]), progress, weights)
    return loss
