"""Classes without training images: no statistics exist for them, so a classifier that is computed rules them out."""

from dataclasses import replace

import torch
from torch import Tensor

from longtail.models.classifier import Classifier

NEVER = -1e30  # a logit below any other, yet finite: minus infinity times zero is no number


def ruled_out(classifier: Classifier, class_counts: Tensor) -> Classifier:
    """Return the classifier with a logit of `NEVER` for classes whose training count in (K,) is 0, whatever it was."""
    empty = (class_counts == 0).to(classifier.bias.device)
    return replace(
        classifier,
        weight=torch.where(empty[:, None], 0.0, classifier.weight),
        bias=torch.where(empty, NEVER, classifier.bias),
    )
