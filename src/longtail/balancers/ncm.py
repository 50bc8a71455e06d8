"""NCM: nearest class mean. A class is the mean of its training features, however many there are; nothing is trained.

    m_k = mean of t(f) over the images of class k,   predicted: the class whose mean is nearest

    metric euclidean   argmin ||t(f) - m_k||^2 = argmax 2 m_k . t(f) - ||m_k||^2
    metric cosine      argmax cos(t(f), m_k)
    space raw          t(f) = f
    space unit         t(f) = f / ||f||
    space centred_unit t(f) = (f - c) / ||f - c||,   c the mean of all training features

The logits are those scores (less ||t(f)||^2, which all classes share), so softmax ranks but is no calibrated
probability.

Source    Kang et al., ICLR 2020, arXiv:1910.09217, section 4; centred_unit is the `cl2n` of its code
Differs   classes without images are never predicted
Limits    one image per class: nearest neighbour; space unit: both metrics agree where all means have equal length
"""

from dataclasses import replace
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.features.empty_classes import ruled_out
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.inference import class_means
from longtail.training.loop import History, Run

Metric = Literal["cosine", "euclidean"]


class NCM(BalancerSpec):
    """Classify by the nearest mean of clean training features.

    Args:
        space: in which features are averaged and compared.
        metric: what near means there.
    """

    name: Literal["ncm"] = "ncm"
    space: Literal["raw", "unit", "centred_unit"]
    metric: Metric

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Average the clean view of the bank; the network's classifier has no say.

        Returns:
            The classifier, and one row with `val_accuracy` where there are validation images.
        """
        space = self._space(bank.view(0))
        means = class_means(space.transform(bank.view(0)), bank.labels, len(bank.class_counts))
        classifier = ruled_out(nearest(means, self.metric, space), bank.class_counts)
        row: History = {"epoch": 0, **validation_row(validation_accuracies(classifier, bank, run.device))}
        run.log(row)
        return classifier, [row]

    def _space(self, features: Tensor) -> Classifier:
        """Return a classifier of no classes, for its transform alone."""
        centre = features.double().mean(0).float() if self.space == "centred_unit" else None
        nothing = features.new_zeros((0, features.shape[1]))
        return Classifier(nothing, nothing[:, 0], centre=centre, unit_norm=self.space != "raw")


def nearest(means: Tensor, metric: Metric, space: Classifier) -> Classifier:
    """Write the nearest mean as the largest logit.

    Args:
        means: (K, D) float32, in the space.
        space: whose transform the features meet.
    """
    if metric == "cosine":
        return replace(space, weight=F.normalize(means), bias=means.new_zeros(len(means)), unit_norm=True)
    return replace(space, weight=2 * means, bias=-means.square().sum(1))
