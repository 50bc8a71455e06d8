"""OFA: the classifier is fine-tuned on tail samples augmented in feature space, online and balanced.

A batch has N_t images of tail classes, N_a fused samples for each of them, and N_t (1 + N_a) images of head classes:

    2 N_t (1 + N_a) = batch_size,   loss = cross entropy of all of them under the tail image's label or their own

A fused sample joins a tail image's own, class-specific locations with class-generic ones of an image of a class that it
is confused with:

    specific(c) = {F_c(p) : M_c(p) > tau_s},   generic(u) = {F_u(p) : M_u(p) < tau_g},   zero vectors left out
    f = (sum of n_s draws from specific(c) + sum of L - n_s draws from generic(u)) / L,   n_s = round(gamma L)

F are the last maps (L = H W locations), M the class activation map of an image's own class, stretched to [0, 1], gamma
~ U(0, 1). Since mean-pool follows, the place of a vector does not matter, and the fused map is pooled at once.

Images go through the training augmentation and the frozen backbone each time: on features computed once, the
classifier overfits at once. Class activation maps are those of the stage-one classifier throughout.

Source    Chu et al., ECCV 2020, arXiv:2008.03673, section 4 and Algorithm 1
Differs   lines 20 and 21 (the head images) stand outside the loop, as the text says, or heads would outnumber tails
          N_t times. Thresholds are met (>=, <=) instead of passed, so that min and max belong to one set each at any
          threshold; n_s is kept in [1, L - 1], a fused sample then always has both parts. Not stated and decided: tau_s
          0.8 and tau_g 0.2; confusing classes out of all others (section 4.2; the introduction says head classes:
          `confusing_pool: head`); a tail class first, then one of its images; momentum 0.9 and weight decay 5e-4;
          BatchNorm in eval mode; after the last mean-pool only (the paper's choice among depths)
Limits    fuse: false repeats the tail image instead (the paper's "No Aug"): balancing alone; both images the same and
          nothing masked: in expectation, the mean over the non-zero locations
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.features.head_classes import HeadClasses
from longtail.images.labeled import LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.loading.reading import Batch, Pass, read
from longtail.models.activation import activation_maps, min_max
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError
from longtail.training.loop import History, Run, Step, fit
from longtail.training.plans import Optimisation


class OFA(BalancerSpec):
    """Fine-tune the classifier on tail samples fused in feature space.

    Args:
        specific, generic: tau_s and tau_g, thresholds on the class activation map.
        confusing: N_f, confusing classes per tail class.
        confusing_pool: classes that may confuse.
        fused_per_image: N_a; with N_a = N_f one per confusing class, else confusing classes are drawn.
        tail_sampling: a tail class first, then its image; or any tail image alike.
        head_classes: which classes are not tail.
        fuse: false repeats tail images instead of fusing them.
        iterations: batches in all.
        augmentation: of the images, each time they are drawn.
        plan: batch_size is 2 N_t (1 + N_a); epochs are the parts into which the iterations are divided.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = "linear"

    name: Literal["ofa"] = "ofa"
    specific: float = Field(ge=0, le=1)
    generic: float = Field(ge=0, le=1)
    confusing: int = Field(ge=1)
    confusing_pool: Literal["all", "head"]
    fused_per_image: int = Field(ge=1)
    tail_sampling: Literal["class", "image"]
    head_classes: HeadClasses
    fuse: bool
    iterations: int = Field(ge=1)
    augmentation: Augmentation
    plan: Optimisation

    @model_validator(mode="after")
    def _divides_up(self) -> Self:
        unit = 2 * (1 + self.fused_per_image)
        if self.plan.batch_size % unit:
            raise ValueError(
                f"plan.batch_size is {self.plan.batch_size}, but a batch of 2 N_t (1 + fused_per_image) needs a "
                f"multiple of {unit}. Set it to {unit * max(1, round(self.plan.batch_size / unit))}"
            )
        if self.iterations % self.plan.epochs:
            raise ValueError(
                f"iterations is {self.iterations}, which plan.epochs {self.plan.epochs} does not divide. "
                f"Set plan.epochs to a divisor, such as 1"
            )
        return self

    @property
    def tails(self) -> int:
        """N_t, tail images in a batch."""
        return self.plan.batch_size // (2 * (1 + self.fused_per_image))

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Fine-tune the stage-one classifier.

        Returns:
            The classifier, and one row per part with `val_accuracy` where there are validation images.

        Raises:
            InputError: if no class is tail, or none head, or the last maps have a single location.
        """
        head = self.head_classes.mask(split.class_counts)
        _check(head, split.class_counts, network, run)
        batches = FusionBatches(self, split, head, bank.confusion, run.seed)
        step = FusionStep(self, network)

        def evaluate(epoch: int) -> History:
            return validation_row(validation_accuracies(step.classifier.export(), bank, run.device))

        history = fit(step, batches, self.plan, run, evaluate)
        return step.classifier.export(), history


def _check(head: Tensor, class_counts: Tensor, network: Network, run: Run) -> None:
    present = class_counts > 0
    for what, mask in (("tail", ~head & present), ("head", head & present)):
        if not mask.any():
            raise InputError(
                f"{run.name} balances head and tail classes, but no class is {what}. Change balancer.head_classes."
            )
    _, height, width = network.map_shape()
    if height * width < 2:
        raise InputError(
            f"{run.name} fuses locations of the last maps, but they have only one. Choose another network.backbone."
        )


class FusionBatches:
    """Batches of images: N_t of tail classes, N_t N_a of classes they are confused with, N_t (1 + N_a) of head classes.

    Args:
        head: (K,) bool.
        confusion: (K, K), see `FeatureBank`.
        seed: the training seed; a part is a function of (seed, its number).
    """

    def __init__(self, spec: OFA, split: LongTailSplit, head: Tensor, confusion: Tensor, seed: int) -> None:
        self.spec, self.images, self.seed = spec, split.train, seed
        counts = split.class_counts
        self.head, self.tail = head & (counts > 0), ~head & (counts > 0)
        pool = self.head if spec.confusing_pool == "head" else counts > 0
        self.confusing = confusing_classes(confusion, self.tail, pool, spec.confusing)
        self.by_class, self.counts = split.train.labels.argsort(stable=True), counts

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, ...]]:
        """Yield the batches of a part (0-based)."""
        steps = self.spec.iterations // self.spec.plan.epochs
        order = self.draw(steps, generator(self.seed, "ofa order", epoch)).flatten()
        augments = self.spec.augmentation.draw(len(order), generator(self.seed, "ofa augment", epoch))
        return read((Pass(self.images, order, self.spec.augmentation, augments),), self.spec.plan.batch_size)

    def draw(self, steps: int, draws: torch.Generator) -> Tensor:
        """Draw the images of so many batches, (steps, batch_size) int64."""
        tails, fused = self.spec.tails, self.spec.fused_per_image
        tail = self._tail_images(steps * tails, draws)
        partners = self._partners(self.images.labels[tail], fused, draws)
        heads = self._images_of(self.head, steps * tails * (1 + fused), draws)
        return torch.cat([tail.view(steps, -1), partners.view(steps, -1), heads.view(steps, -1)], 1)

    def _tail_images(self, wanted: int, draws: torch.Generator) -> Tensor:
        if self.spec.tail_sampling == "image":
            return self._images_of(self.tail, wanted, draws)
        classes = self.tail.nonzero().flatten()
        chosen = classes[torch.randint(len(classes), (wanted,), generator=draws)]
        return self._one_of_each(chosen, draws)

    def _partners(self, labels: Tensor, fused: int, draws: torch.Generator) -> Tensor:
        """Draw N_a images of confusing classes for each tail image: each class once, or drawn if they are not N_a."""
        confusing = self.confusing[labels]
        if confusing.shape[1] != fused:
            column = torch.randint(confusing.shape[1], (len(labels), fused), generator=draws)
            confusing = confusing.gather(1, column)
        return self._one_of_each(confusing.flatten(), draws)

    def _images_of(self, classes: Tensor, wanted: int, draws: torch.Generator) -> Tensor:
        images = classes[self.images.labels].nonzero().flatten()
        return images[torch.randint(len(images), (wanted,), generator=draws)]

    def _one_of_each(self, classes: Tensor, draws: torch.Generator) -> Tensor:
        starts, counts = (self.counts.cumsum(0) - self.counts)[classes], self.counts[classes]
        places = torch.rand(len(classes), generator=draws, dtype=torch.float64) * counts
        return self.by_class[starts + places.long()]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a part depends on the seed and its number alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


class Composed(NamedTuple):
    """What the classifier learns from: features (B, D) float32 and labels (B,) int64."""

    features: Tensor
    labels: Tensor


class FusionStep(Step):
    """Cross entropy of the classifier on real and fused features."""

    def __init__(self, spec: OFA, network: Network) -> None:
        super().__init__()
        self.spec = spec
        self.frozen = (network,)  # in a tuple: not a part of this module's state, nor of what is trained
        self.classifier = deepcopy(network.classifier).requires_grad_(True)

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean cross entropy in nats for a batch of `FusionBatches`."""
        features, labels = self.compose(batch, generator)
        return F.cross_entropy(self.classifier(features), labels)

    @torch.no_grad()
    def compose(self, batch: Any, generator: torch.Generator) -> Composed:
        """Return real tail features, fused ones, and head features, in this order, with their labels."""
        (images, labels), (network,), tails = batch, self.frozen, self.spec.tails
        pairs = tails * self.spec.fused_per_image
        maps = network.maps(images)
        real = maps.float().mean((2, 3))
        rows = torch.arange(tails, device=images.device).repeat_interleave(self.spec.fused_per_image)
        fused = self.fused(maps, labels, rows, generator) if self.spec.fuse else real[rows]
        last = tails + pairs
        return Composed(
            torch.cat([real[:tails], fused, real[last:]]), torch.cat([labels[:tails], labels[rows], labels[last:]])
        )

    def fused(self, maps: Tensor, labels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Fuse the tail images `rows` with those that follow the tail images in the batch, (P, D)."""
        (network,) = self.frozen
        masks = class_masks(maps, network.classifier.weight, labels, self.spec.specific, self.spec.generic)
        partners = self.spec.tails + torch.arange(len(rows), device=maps.device)
        locations = maps.shape[2] * maps.shape[3]
        draws = torch.rand(len(rows), 1 + 2 * locations, generator=generator).to(maps.device)
        return fuse(maps, rows, partners, masks, draws)


def class_masks(maps: Tensor, weight: Tensor, labels: Tensor, tau_s: float, tau_g: float) -> tuple[Tensor, Tensor]:
    """Return which locations are specific to the image's class and which are generic.

    Args:
        maps: (B, D, H, W).
        weight: (K, D) of the stage-one classifier.
        labels: (B,) int64, the images' own classes.

    Returns:
        Two (B, L) bool; all true where a map is flat and shows nothing.
    """
    scaled, flat = min_max(activation_maps(maps, weight, labels))
    scaled, flat = scaled.flatten(1), flat[:, None]
    return specific(scaled, tau_s) | flat, generic(scaled, tau_g) | flat


def specific(cams: Tensor, tau_s: float) -> Tensor:
    """Return where CAMs in [0, 1] show the class."""
    return cams >= tau_s


def generic(cams: Tensor, tau_g: float) -> Tensor:
    """Return where CAMs in [0, 1] do not show the class."""
    return cams <= tau_g


def drawable(maps: Tensor, mask: Tensor) -> Tensor:
    """Drop locations whose vector is zero; then, where nothing is left, take the non-zero ones, then all.

    Args:
        maps: (B, D, H, W).
        mask: (B, L) bool.

    Returns:
        (B, L) bool, at least one true in each row.
    """
    filled = is_filled(maps)
    chosen = mask & filled
    chosen = torch.where(chosen.any(1, keepdim=True), chosen, filled)
    return torch.where(chosen.any(1, keepdim=True), chosen, torch.ones_like(mask))


def is_filled(maps: Tensor) -> Tensor:
    """Return which locations of maps (B, D, H, W) hold more than zeros, (B, L) bool."""
    return (maps != 0).any(1).flatten(1)


def specific_share(shares: Tensor, locations: int) -> Tensor:
    """Return how many of L draws are class-specific, (P,) int64 in [1, L - 1], for gamma (P,) in [0, 1]."""
    return (shares * locations).round().long().clamp(1, locations - 1)


def draw_locations(chosen: Tensor, uniforms: Tensor) -> Tensor:
    """Draw locations with replacement among the chosen ones.

    Args:
        chosen: (P, L) bool, at least one true in each row.
        uniforms: (P, L) in [0, 1), one per draw.

    Returns:
        (P, L) int64.
    """
    order = chosen.int().argsort(dim=1, descending=True, stable=True)  # the chosen ones first, in their order
    count = chosen.sum(1, keepdim=True)
    place = (uniforms * count).long().minimum(count - 1)  # rounding may reach the count
    return order.gather(1, place)


def fuse(maps: Tensor, rows: Tensor, partners: Tensor, masks: tuple[Tensor, Tensor], draws: Tensor) -> Tensor:
    """Return the pooled fused features (P, D) float32 of P pairs.

    Args:
        maps: (B, D, H, W) of a batch of images.
        rows, partners: (P,) int64, the tail image and the confusing image of each pair in the batch.
        masks: specific and generic locations of all images, (B, L) bool each.
        draws: (P, 1 + 2 L) in [0, 1): gamma, then one per draw of each kind.
    """
    locations = maps.shape[2] * maps.shape[3]
    own = draw_locations(drawable(maps, masks[0])[rows], draws[:, 1 : 1 + locations])
    other = draw_locations(drawable(maps, masks[1])[partners], draws[:, 1 + locations :])
    wanted = specific_share(draws[:, 0], locations)[:, None]
    is_own = torch.arange(locations, device=maps.device) < wanted
    return (_sums(maps[rows], own, is_own) + _sums(maps[partners], other, ~is_own)) / locations


def _sums(maps: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Sum maps (P, D, H, W) over the places (P, L) that are counted, (P, D) float32."""
    times = torch.zeros_like(places, dtype=torch.float32).scatter_add_(1, places, counted.float())
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("pdl,pl->pd", maps.flatten(2).float(), times)


def confusing_classes(confusion: Tensor, tails: Tensor, pool: Tensor, wanted: int) -> Tensor:
    """Return the classes that the tail classes are most confused with, most first; ties: the lower label.

    Args:
        confusion: (K, K), row c the mean softmax output on images of class c.
        tails: (K,) bool, the tail classes; head classes, which have one fewer in a pool of heads, do not count for F.
        pool: (K,) bool, classes that may be chosen; never the class itself.
        wanted: N_f.

    Returns:
        (K, F) int64, F = N_f, or as many as every tail class has. Rows of the others mean nothing.
    """
    own = torch.eye(len(confusion), dtype=torch.bool, device=confusion.device)
    scores = torch.where(own | ~pool, -torch.inf, confusion)
    most = min(wanted, int((~scores.isinf()).sum(1)[tails].min()))
    return scores.argsort(dim=1, descending=True, stable=True)[:, :most]
