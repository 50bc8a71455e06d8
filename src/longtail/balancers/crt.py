"""cRT: classifier re-training. A fresh linear classifier learns from classes drawn equally often.

Source    Kang et al., ICLR 2020, arXiv:1910.09217; for CIFAR, 30 epochs at lr 0.1: Bag of Tricks, AAAI 2021
Differs   features come from a bank of V views, BatchNorm in eval mode (Kang's code leaves it in train mode, where
          its running statistics drift); the fresh classifier is linear also where the network's was a cosine one
Limits    equal counts: plain re-training on balanced data
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.batches import FeatureBatch, FeatureBatches, validation_accuracies, validation_row
from longtail.images.labeled import LongTailSplit
from longtail.loading.sampling import BalancedSampler
from longtail.models.classifier import Classifier, LinearClassifier
from longtail.models.network import Network
from longtail.seeding import seeded
from longtail.training.loop import History, Run, Step, fit
from longtail.training.plans import Optimisation


class CRT(BalancerSpec):
    """Re-train the classifier from scratch.

    Args:
        sampler: `class_balanced` draws a class, then one of its rows, each time anew; `class_aware` is Kang's cycle
            over classes and over the rows of each. An epoch has as many rows as there are training images, or n_max K
            with `epoch: balanced`.
        plan: of the re-training.
    """

    name: Literal["crt"] = "crt"
    sampler: BalancedSampler
    plan: Optimisation

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Train on the bank's views in turn.

        Returns:
            The classifier, and one row per epoch with `val_accuracy` where there are validation images.
        """
        with seeded(run.seed, "classifier"):
            step = ClassifierStep(LinearClassifier(bank.features.shape[2], len(bank.class_counts)))
        batches = FeatureBatches(bank, self.sampler, self.plan, run.seed)

        def evaluate(epoch: int) -> History:
            return validation_row(validation_accuracies(step.classifier.export(), bank, run.device))

        history = fit(step, batches, self.plan, run, evaluate)
        return step.classifier.export(), history


class ClassifierStep(Step):
    """Cross entropy of a classifier on features."""

    def __init__(self, classifier: LinearClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: FeatureBatch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean cross entropy in nats."""
        return F.cross_entropy(self.classifier(batch.features), batch.labels)
