"""LWS: learnable weight scaling. One scale per class learns from classes drawn equally often; directions stay.

    z_k = s_k (w_k . f + b_k),   s_k = 1 at first;   w and b are those of stage one and do not learn

The bias is scaled too, as in Kang's code: a class turns up or down as a whole. Stage two returns s_k w_k and s_k b_k.

Source    Kang et al., ICLR 2020, arXiv:1910.09217, section 4
Differs   features come from a bank of V views, BatchNorm in eval mode (Kang's code leaves it in train mode, where
          its running statistics drift). A cosine classifier is scaled likewise: z_k = s_k scale cos(w_k, f) on
          features of unit length, so its classes then have logits of different ranges
Limits    all scales 1: keep; scales of 1 / ||w_k||^tau without a bias: tau-normalisation
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.batches import FeatureBatch, FeatureBatches, validation_accuracies, validation_row
from longtail.images.labeled import LongTailSplit
from longtail.loading.sampling import BalancedSampler
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.loop import History, Run, Step, fit
from longtail.training.plans import Optimisation


class LWS(BalancerSpec):
    """Learn one scale per class.

    Args:
        sampler: `class_balanced` draws a class, then one of its rows, each time anew; `class_aware` is Kang's cycle
            over classes and over the rows of each. An epoch has as many rows as there are training images, or n_max K
            with `epoch: balanced`.
        plan: of the scales; its weight decay pulls them to 0.
    """

    name: Literal["lws"] = "lws"
    sampler: BalancedSampler
    plan: Optimisation

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Train on the bank's views in turn.

        Returns:
            The classifier, and one row per epoch with `val_accuracy` where there are validation images.
        """
        step = ScaleStep(network.classifier.export())
        batches = FeatureBatches(bank, self.sampler, self.plan, run.seed)

        def evaluate(epoch: int) -> History:
            return validation_row(validation_accuracies(step.export(), bank, run.device))

        history = fit(step, batches, self.plan, run, evaluate)
        return step.export(), history


class ScaleStep(Step):
    """Cross entropy of a classifier whose logits are scaled per class; the scales are all that learns.

    Args:
        classifier: of stage one; it stays as it is.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.scales = nn.Parameter(torch.ones_like(classifier.bias))

    def forward(self, batch: FeatureBatch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean cross entropy in nats."""
        return F.cross_entropy(self.scales * self.classifier(batch.features), batch.labels)

    @torch.no_grad()
    def export(self) -> Classifier:
        """Return the classifier with the scales folded into weight and bias."""
        old = self.classifier
        return replace(old, weight=self.scales[:, None] * old.weight, bias=self.scales * old.bias)
