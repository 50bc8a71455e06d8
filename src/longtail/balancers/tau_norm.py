"""tau-normalisation: classifier weights at more equal lengths, without training.

    w_k <- w_k / ||w_k||^tau,   no bias

Frequent classes have grown the longer weights, so their logits win; tau = 1 makes all lengths equal.

Source    Kang et al., ICLR 2020, arXiv:1910.09217, section 4.3
Differs   tau is chosen by mean per-class accuracy on images held out of train; never on test
Limits    tau = 0: the stage-one classifier without its bias; weights of equal length (a cosine classifier): no change
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.grid import Grid, NumberOrGrid, choose_tau
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.loop import History, Run


class TauNorm(BalancerSpec):
    """Scale the network's classifier.

    Args:
        tau: a number, or the grid in which validation accuracy chooses (ties: the smallest tau).
    """

    name: Literal["tau_norm"] = "tau_norm"
    tau: NumberOrGrid

    def without_validation(self) -> str | None:
        """Return what to change where there are no validation images; None if nothing needs any."""
        return "tau: 1.0" if isinstance(self.tau, Grid) else None

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Choose tau and scale.

        Returns:
            The classifier, and one row with `tau` and, where there are validation images, `val_accuracy`.

        Raises:
            InputError: if tau is to be chosen and there are no validation images.
        """
        return choose_tau(self.tau, partial(normalised, network.classifier.export()), bank, run)


def normalised(classifier: Classifier, tau: float) -> Classifier:
    """Return w_k / ||w_k||^tau without bias; weights of length zero stay zero."""
    norms = torch.linalg.vector_norm(classifier.weight, dim=1, keepdim=True)
    weight = classifier.weight / norms.clamp(min=1e-12) ** tau
    return replace(classifier, weight=weight, bias=torch.zeros_like(classifier.bias))
