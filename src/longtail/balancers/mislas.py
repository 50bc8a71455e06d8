"""MiSLAS, stage two: the classifier learns with label-aware smoothing while BatchNorm gets used to balanced classes.

    z    = lws * (W f + b),   W and b from stage one                                            on class-aware batches
    loss = (1 - eps_y) (-log p_y) + eps_y mean_k(-log p_k)
    eps_k = eps_tail + (eps_head - eps_tail) g(r_k),   r_k = (n_k - n_min) / (n_max - n_min)
    g     = sin(pi r / 2) concave,   r linear,   1 - cos(pi r / 2) convex,   r^power exponential

The more images a class has, the less the classifier trusts its labels. Shifted BatchNorm: features f of freshly
augmented class-aware batches are normalised by the statistics of the batch, and the running statistics follow, m <- 0.9
m + 0.1 m_batch. They are the only numbers of the backbone that move: neither convolutions nor BatchNorm's own weights
learn. Stage one should be trained with mixup.

Source    Zhong et al., CVPR 2021, arXiv:2104.00466, section 3, and its code
Differs   eps_y is spread over all K classes, as in the code behind the published numbers, not over the K - 1 others;
          that is an eps_y smaller by the factor (K - 1) / K. n_min is that of the classes that have images. All batches
          are full (a few images left over would weigh a tenth of the last statistics); an epoch is ceil(N / batch)
          steps. Without shifting, features come from the same images through the backbone as it is, not from the bank,
          so that both settings see the same data
Limits    no shift and eps 0: cRT that starts from stage one; lws alone: LWS. Equal counts: eps_tail for all (r is 0/0
          there); eps_head = eps_tail: label smoothing
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from math import pi
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.features.scaled_classifier import LearningRates, ScaledClassifier
from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.loading.reading import Batch, Pass, read
from longtail.loading.sampling import epoch_indices
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError, Spec
from longtail.training.inference import features_of
from longtail.training.loop import History, Run, fit
from longtail.training.plans import Optimisation


class Exponential(Spec):
    """g(r) = r^power: above 1 only the largest classes are smoothed much."""

    name: Literal["exponential"] = "exponential"
    power: float = Field(gt=0)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "concave": lambda r: torch.sin(pi * r / 2),
    "linear": lambda r: r,
    "convex": lambda r: 1 - torch.cos(pi * r / 2),
}


class LabelAwareSmoothing(Spec):
    """How much each class is smoothed.

    Args:
        eps_head: of the largest class.
        eps_tail: of the smallest.
        form: of g between them; `{name: exponential, power: 2.0}` for a power.
    """

    eps_head: float = Field(ge=0, le=1)
    eps_tail: float = Field(ge=0, le=1)
    form: Literal["concave", "linear", "convex"] | Exponential

    def eps(self, class_counts: Tensor) -> Tensor:
        """Return (K,) float64 for training counts (K,)."""
        counts = class_counts.double()
        low, high = counts[counts > 0].min(), counts.max()
        ratio = ((counts - low) / (high - low).clamp(min=1)).clamp(min=0)
        g = ratio**self.form.power if isinstance(self.form, Exponential) else FORMS[self.form](ratio)
        return self.eps_tail + (self.eps_head - self.eps_tail) * g


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Return the loss of each sample.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        eps: (K,) in [0, 1], of the label's class.

    Returns:
        (B,), in nats, float32 or wider.
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    surprise = -wide.log_softmax(1)
    own = surprise.gather(1, labels[:, None]).squeeze(1)
    share = eps[labels].to(wide.dtype)
    return (1 - share) * own + share * surprise.mean(1)


BatchNorm = nn.modules.batchnorm._BatchNorm


class MiSLAS(BalancerSpec):
    """Train the classifier on images.

    Args:
        smoothing: of labels, by class.
        shift_batch_norm: whether running statistics move; the published tables say false for CIFAR-10.
        lr_factors: of the plan's lr; the published ones are 1.0 for lws and 0.05 to 0.5 for fc.
        augmentation: of the images that features are computed of.
        plan: an epoch shows as many images as there are for training.
    """

    name: Literal["mislas"] = "mislas"
    smoothing: LabelAwareSmoothing
    shift_batch_norm: bool
    lr_factors: LearningRates
    augmentation: Augmentation
    plan: Optimisation

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Train on augmented images through a copy of the network; the bank is not used.

        Returns:
            The classifier, with lws folded in and the moved statistics, and one row per epoch with `val_accuracy`
            (of features with those statistics) where there are validation images.

        Raises:
            InputError: if statistics are to move and the network has none.
        """
        if self.shift_batch_norm and not statistics_of(network):
            raise InputError(
                f"{run.name} shifts BatchNorm, but the network has none. Set balancer.shift_batch_norm: false."
            )
        eps = self.smoothing.eps(split.class_counts)
        step = MiSLASStep(network, self.lr_factors, eps, self.shift_batch_norm)
        batches = ClassAwareBatches(split.train, self.augmentation, self.plan, run.seed)

        def evaluate(epoch: int) -> History:
            if not len(split.val):
                return {}
            features = torch.cat(list(features_of(step.network, split.val, run.device)))
            seen = replace(bank, val_features=features, val_labels=split.val.labels)
            return validation_row(validation_accuracies(step.export(), seen, run.device))

        history = fit(step, batches, self.plan, run, evaluate)
        return step.export(), history


class ClassAwareBatches:
    """Full batches of augmented images, classes in turn.

    Args:
        seed: the training seed; an epoch is a function of (seed, epoch).
    """

    def __init__(self, images: LabeledImages, augmentation: Augmentation, plan: Optimisation, seed: int) -> None:
        self.images, self.augmentation, self.plan, self.seed = images, augmentation, plan, seed

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, ...]]:
        """Yield the batches of an epoch (0-based)."""
        size, images = self.plan.batch_size, self.images
        places = -(-len(images) // size) * size
        draws = generator(self.seed, "mislas order", epoch)
        done = epoch / self.plan.epochs
        order = epoch_indices("class_aware", images.labels, images.class_counts, places, draws, done)
        augments = self.augmentation.draw(places, generator(self.seed, "mislas augment", epoch))
        return read((Pass(images, order, self.augmentation, augments),), size)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: an epoch depends on the seed and its number alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


class MiSLASStep(ScaledClassifier):
    """Label-aware smoothing on features of a backbone whose BatchNorm statistics may move.

    Args:
        network: is copied; the copy is part of the state_dict, since its statistics are what an epoch leaves behind.
        eps: (K,) smoothing per class.
        shift: whether statistics move.
    """

    eps: Tensor

    def __init__(self, network: Network, lr_factors: LearningRates, eps: Tensor, shift: bool) -> None:
        super().__init__(network.classifier.export(), lr_factors)
        self.network, self.shift = deepcopy(network).freeze(), shift
        self.register_buffer("eps", eps, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; of the network only BatchNorm ever trains, dropout and the like never do."""
        super().train(mode)
        self.network.eval()
        for norm in batch_norms(self.network).values() if self.shift else ():
            norm.train(mode)
        return self

    def forward(self, batch: Batch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean smoothed cross entropy in nats."""
        with torch.no_grad():
            features = self.network.features(batch.images).float()
        return smoothed_cross_entropy(self.logits(features), batch.labels, self.eps).mean()

    def export(self) -> Classifier:
        """Return the classifier with the scales folded in, and the statistics where they moved."""
        return replace(super().export(), statistics=statistics_of(self.network) if self.shift else None)


def batch_norms(network: Network) -> dict[str, BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, by name."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)}
    return {name: norm for name, norm in norms.items() if norm.track_running_stats}


def statistics_of(network: Network) -> dict[str, Tensor]:
    """Return copies of the running means and variances by their names in the network's state_dict."""
    kinds = ("running_mean", "running_var")
    norms = batch_norms(network).items()
    return {f"{name}.{kind}": getattr(norm, kind).detach().clone() for name, norm in norms for kind in kinds}
