"""What balancers share: batches of a bank's features by a sampler, and accuracy on its validation features."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longtail.features.bank import FeatureBank
from longtail.loading.sampling import Sampler, epoch_indices, epoch_length
from longtail.models.classifier import Classifier
from longtail.seeding import generator
from longtail.training.loop import History
from longtail.training.plans import Optimisation

BATCH = 4096


class FeatureBatch(NamedTuple):
    """Features (B, D) float32 and labels (B,) int64."""

    features: Tensor
    labels: Tensor


class FeatureBatches:
    """Batches of training features: another view each epoch, drawn by a sampler, which says how many rows.

    Args:
        seed: the training seed; an epoch's rows are a function of (seed, epoch).
    """

    def __init__(self, bank: FeatureBank, sampler: Sampler, plan: Optimisation, seed: int) -> None:
        self.bank, self.sampler, self.plan, self.seed = bank, sampler, plan, seed

    def epoch(self, epoch: int) -> Iterator[tuple[FeatureBatch]]:
        """Yield the batches of an epoch (0-based)."""
        view = self.bank.features[epoch % len(self.bank.features)]
        labels = self.bank.labels
        draws = generator(self.seed, "feature_batches", epoch)
        progress = epoch / self.plan.epochs
        length = epoch_length(self.sampler, self.bank.class_counts)
        rows = epoch_indices(self.sampler, labels, self.bank.class_counts, length, draws, progress)
        for part in torch.split(rows, self.plan.batch_size):
            yield (FeatureBatch(view[part].float(), labels[part]),)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: an epoch depends on its number alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


@torch.inference_mode()
def validation_accuracies(classifier: Classifier, bank: FeatureBank, device: torch.device) -> Tensor:
    """Return the accuracy per class on the validation features, (K,) float64 in [0, 1], NaN for a class without any."""
    parts = [classifier(part.to(device).float()).argmax(1).cpu() for part in torch.split(bank.val_features, BATCH)]
    correct = torch.cat(parts) == bank.val_labels
    num_classes = len(bank.class_counts)
    hits = torch.bincount(bank.val_labels[correct], minlength=num_classes)
    return hits.double() / torch.bincount(bank.val_labels, minlength=num_classes)


def validation_row(accuracies: Tensor) -> History:
    """Return the history entry `val_accuracy` (mean over the classes that have images), or nothing if none has."""
    return {} if accuracies.isnan().all() else {"val_accuracy": float(accuracies.nanmean())}
