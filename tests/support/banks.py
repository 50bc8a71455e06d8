"""Feature banks and classifiers with known properties, for the tests of stage two."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from longtail.features.bank import FeatureBank
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network
from longtail.training.inference import class_means
from longtail.training.loop import Run
from longtail.training.plans import Optimisation

COUNTS = (40, 18, 9, 3, 1)
CPU = torch.device("cpu")


def make_bank(
    counts: Sequence[int] = COUNTS,
    dim: int = 16,
    spread: float = 0.1,
    views: int = 3,
    val_per_class: int = 4,
    seed: int = 0,
) -> FeatureBank:
    """Draw non-negative features around one mean per class, apart enough for a linear classifier at small spread."""
    draws = torch.Generator().manual_seed(seed)
    means = torch.rand((len(counts), dim), generator=draws) + 2 * torch.eye(len(counts), dim)

    def around(labels: Tensor) -> Tensor:
        noise = torch.randn((len(labels), dim), generator=draws)
        return (means[labels] + spread * noise).clamp(min=0).half()

    class_counts = torch.tensor(counts)
    labels = torch.arange(len(counts)).repeat_interleave(class_counts)
    labels = labels[torch.randperm(len(labels), generator=draws)]
    val_labels = torch.arange(len(counts)).repeat(val_per_class)
    features = torch.stack([around(labels) for _ in range(views)])
    return FeatureBank(
        features=features,
        labels=labels,
        val_features=around(val_labels),
        val_labels=val_labels,
        class_counts=class_counts,
        class_means=class_means(features[0].float(), labels, len(counts)),
        confusion=torch.full((len(counts), len(counts)), 1 / len(counts)),
    )


def biased_network(bank: FeatureBank, bias: float, seed: int = 0) -> Network:
    """Return a frozen network whose classifier knows the class means, but favours frequent classes by its bias.

    Args:
        bias: added to logits in proportion to log n_k; 0 makes the nearest mean win.
    """
    torch.manual_seed(seed)
    means = bank.class_means
    classifier = LinearClassifier(means.shape[1], len(means))
    with torch.no_grad():
        classifier.weight.copy_(means)
        classifier.bias.copy_(-means.square().sum(1) / 2 + bias * bank.class_counts.log())
    return Network([nn.Identity()], classifier).freeze()


def copied(bank: FeatureBank) -> FeatureBank:
    """Return a bank of its own memory, to compare with after something ran on the first."""
    return FeatureBank(**{field.name: getattr(bank, field.name).clone() for field in fields(bank)})


def same(one: FeatureBank, other: FeatureBank) -> bool:
    """Return whether two banks hold the same bits."""
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def make_run(seed: int = 0, **changes: Any) -> Run:
    """Return a run on the CPU without a checkpoint."""
    return Run("finetune@method seed 0", seed, CPU, **changes)


def make_plan(**changes: Any) -> Optimisation:
    """Return a short plan of stage two."""
    plan = {
        "epochs": 6,
        "batch_size": 32,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "warmup": 0,
        "schedule": {"name": "cosine"},
    }
    return Optimisation.model_validate(plan | changes)
