"""The feature bank: everything that stage two needs of a trained network, on disk once for all balancers."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtail.images.labeled import LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import augmented_batches
from longtail.models.network import Network
from longtail.spec import InputError, Spec
from longtail.training.inference import BATCH, batch_features, class_means, features_of


class ExtractSpec(Spec):
    """How many views of each training image the bank holds.

    Args:
        views: V; view 0 is clean, the others are freshly augmented. A balancer cycles through them, since a
            classifier tuned on one view of the images that the backbone was trained on overfits at once.
        max_gigabytes: larger banks are refused before any work is done.
    """

    views: int = Field(ge=1)
    max_gigabytes: float = Field(gt=0)

    def check(self, images: int, feature_dim: int) -> None:
        """Raise InputError if V x N x D half-precision numbers exceed max_gigabytes."""
        size = 2 * self.views * images * feature_dim / 1e9
        if size > self.max_gigabytes:
            raise InputError(
                f"extract.views is {self.views}, so the feature bank would take {size:.1f} GB, more than "
                f"extract.max_gigabytes {self.max_gigabytes:g}. Lower extract.views or raise extract.max_gigabytes."
            )


@dataclass(frozen=True)
class FeatureBank:
    """Features and statistics of one trained network on one split.

    Args:
        features: (V, N, D) float16 of the training images, view 0 clean; memory-mapped after `load`, so take one
            view at a time.
        labels: (N,) int64.
        val_features: (M, D) float16, clean; M may be 0.
        val_labels: (M,) int64.
        class_counts: (K,) int64 training images per class.
        class_means: (K, D) float32 of view 0.
        confusion: (K, K) float32; row c is the mean softmax output on the training images of class c.
    """

    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    class_counts: Tensor
    class_means: Tensor
    confusion: Tensor

    def view(self, number: int) -> Tensor:
        """Return one view of the training features as (N, D) float32; views are cycled through."""
        return self.features[number % len(self.features)].float()

    def save(self, path: Path) -> None:
        """Write the bank as one safetensors file."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def extract(
    network: Network,
    split: LongTailSplit,
    augmentation: Augmentation,
    spec: ExtractSpec,
    seed: int,
    device: torch.device,
) -> FeatureBank:
    """Compute the bank of a trained network in eval mode, in float32.

    Args:
        augmentation: of the training images, for views 1 to V - 1.
        seed: the training seed; view v is a function of (seed, v).

    Raises:
        InputError: if the bank would be larger than `spec` allows, or some feature is not a number that half precision
            can hold.
    """
    spec.check(len(split.train), network.classifier.weight.shape[1])
    network = network.to(device).freeze()
    clean = torch.cat(list(features_of(network, split.train, device)))
    bank = torch.empty((spec.views, *clean.shape), dtype=torch.float16)
    bank[0] = _half(clean)
    for v in range(1, spec.views):
        batches = augmented_batches(split.train, BATCH, augmentation, seed, "view", v)
        bank[v] = _half(torch.cat([batch_features(network, images, device) for images, _ in batches]))
    softmax = torch.cat([network.classifier(part.to(device)).softmax(1).cpu() for part in torch.split(clean, BATCH)])
    val = list(features_of(network, split.val, device))
    return FeatureBank(
        features=bank,
        labels=split.train.labels,
        val_features=_half(torch.cat(val)) if val else bank.new_zeros((0, clean.shape[1])),
        val_labels=split.val.labels,
        class_counts=split.class_counts,
        class_means=class_means(clean, split.train.labels, split.train.num_classes),
        confusion=class_means(softmax, split.train.labels, split.train.num_classes),
    )


def _half(features: Tensor) -> Tensor:
    half = features.half()
    if not half.isfinite().all():
        raise InputError(
            f"The trained network yields features up to {features.abs().max():.3g}, and half precision holds at most "
            "65504. Train it again with a lower plan.lr or a higher plan.weight_decay."
        )
    return half
