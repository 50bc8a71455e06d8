"""Post-hoc logit adjustment: what a class has gained by being frequent is taken off its logit, without training.

    z_k <- z_k - tau log pi_k,   pi_k = n_k / N

Trained by cross entropy, exp(z_k) follows P(k) P(x | k), and tau = 1 divides the prior P(k) out.

Source    Menon et al., ICLR 2021, arXiv:2007.07314, section 4
Differs   tau is chosen by mean per-class accuracy on images held out of train; never on test. Classes without
          training images are never predicted: their log prior is no number. The scaled cosines of a cosine classifier
          are adjusted as they are, which wants a tau as small as their range
Limits    tau = 0 or equal counts: keep. A loss that adjusts the logits itself (Balanced Softmax) has done this already
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.empty_classes import ruled_out
from longtail.features.grid import Grid, NumberOrGrid, choose_tau
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.loop import History, Run


class LogitAdjustment(BalancerSpec):
    """Move the bias of the network's classifier.

    Args:
        tau: a number, or the grid in which validation accuracy chooses (ties: the smallest tau).
    """

    name: Literal["logit_adjustment"] = "logit_adjustment"
    tau: NumberOrGrid

    def without_validation(self) -> str | None:
        """Return what to change where there are no validation images; None if nothing needs any."""
        return "tau: 1.0" if isinstance(self.tau, Grid) else None

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Choose tau and adjust.

        Returns:
            The classifier, and one row with `tau` and, where there are validation images, `val_accuracy`.

        Raises:
            InputError: if tau is to be chosen and there are no validation images.
        """
        return choose_tau(self.tau, partial(adjusted, network.classifier.export(), bank.class_counts), bank, run)


def adjusted(classifier: Classifier, class_counts: Tensor, tau: float) -> Classifier:
    """Return the classifier with bias b_k - tau log pi_k for training counts (K,); empty classes are ruled out."""
    prior = class_counts.double() / class_counts.sum()
    offset = tau * prior.clamp(min=torch.finfo(torch.float64).tiny).log()  # finite also for empty classes
    return ruled_out(replace(classifier, bias=classifier.bias - offset.to(classifier.bias)), class_counts)
