"""What a network makes of images that it does not learn from: features, accuracy, and whether it is sure.

Everything runs in eval mode and without gradients; the caller puts the network there (`Network.freeze`), but for
`evaluating`, which does so for a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from longtail.images.labeled import LabeledImages
from longtail.loading.batches import clean_batches
from longtail.models.network import Network
from longtail.training.hardware import eagerly

BATCH = 512


def features_of(network: Network, images: LabeledImages, device: torch.device) -> Iterator[Tensor]:
    """Yield clean features (B, D) float32 on the CPU, in the order of `images`, without autocast."""
    for batch, _ in clean_batches(images, BATCH):
        yield batch_features(network, batch, device)


@torch.inference_mode()
def batch_features(network: Network, images: Tensor, device: torch.device) -> Tensor:
    """Return features (B, D) float32 on the CPU of images (B, C, H, W), uint8 or in [0, 1], without autocast."""
    images = images.to(device)
    images = images.float().div(255) if images.dtype == torch.uint8 else images
    with eagerly():  # compiled stages are for the shapes of training
        return network.features(images.contiguous(memory_format=torch.channels_last)).float().cpu()


def class_means(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average rows (N, D) per class: (K, D) float32, zeros for a class without rows."""
    sums = torch.zeros((num_classes, rows.shape[1]), dtype=torch.float64).index_add_(0, labels, rows.double())
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return (sums / counts[:, None]).float()


@torch.inference_mode()
def validation_accuracy(network: Network, images: LabeledImages, device: torch.device) -> float:
    """Return the mean per-class accuracy in [0, 1] of a network in eval mode, over the classes that have images.

    Args:
        images: at least one.
    """
    correct = [
        (network.classifier(part.to(device)).argmax(1).cpu() == labels).float()[:, None]
        for part, labels in zip(features_of(network, images, device), torch.split(images.labels, BATCH), strict=True)
    ]
    accuracies = class_means(torch.cat(correct), images.labels, images.num_classes)
    return float(accuracies[images.class_counts > 0].mean())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside the block, and each of its modules back in its own mode after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def confident(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return whether the label's probability reaches the threshold, (B,) bool, for logits (B, K)."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).softmax(1).gather(1, labels[:, None])[:, 0] >= threshold
