"""The adaptive feature generator of GLAG: every epoch a balanced union of real and freshly drawn features.

A head class gets its missing rows from N(mu_k, Sigma_k), a tail class from the calibrated distributions of its own
samples. An epoch takes one view of the bank, computes its statistics, and draws chunk by chunk: the union is never in
memory, and each chunk has its own stream of random numbers, named by (seed, epoch, chunk).

Source    GLAG, arXiv:2203.00452, section 4.2; a fresh view each epoch is TailCalibX, arXiv:2111.05956
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from longtail.balancers.confidence import Confidence
from longtail.features.balanced_rows import Union, balanced_union
from longtail.features.bank import FeatureBank
from longtail.features.statistics import ClassStatistics, Support, draw_calibrated, rows_by_class, support_sets
from longtail.models.classifier import tukey
from longtail.seeding import generator
from longtail.spec import InputError, Spec

CHUNK = 2**24  # numbers per tensor while drawing: 64 MB
EXAMPLES = 150  # per class, for those who want to look


class Generation(Spec):
    """What is drawn.

    Args:
        tukey: power that brings features, real, validation and test, closer to a Gaussian; 1 for none, 0 for the log.
        statistics: of `transformed` features, or of `raw` ones as eq. 5 and 6 are written.
        support: size of a sample's support set (the paper's K).
        gamma: added to every entry of the calibrated covariance (`ones`) or to its diagonal (`identity`).
        clamp: whether negative numbers in drawn features become 0, as after a ReLU.
        epoch_rows: `union` trains on all n_max K rows each epoch, `original` on a random N of them.
    """

    tukey: float = Field(ge=0, le=2)
    statistics: Literal["transformed", "raw"]
    support: int = Field(ge=1)
    gamma: float = Field(ge=0)
    gamma_form: Literal["ones", "identity"]
    clamp: bool
    epoch_rows: Literal["union", "original"]

    @model_validator(mode="after")
    def _clamp_needs_powers(self) -> Self:
        if self.clamp and self.tukey == 0:
            raise ValueError("clamp: true would cut the negative logarithms of tukey: 0; set clamp: false")
        return self

    def check(self, bank: FeatureBank) -> None:
        """Raise InputError if Tukey's transform does not exist for these features."""
        parts = (*bank.features, bank.val_features)
        if self.tukey != 1 and any(bool((part < 0).any()) for part in parts):
            raise InputError(
                f"balancer.generation.tukey is {self.tukey:g}, but some features of this network are negative. "
                "Set balancer.generation.tukey: 1.0."
            )


class GeneratedBatch(NamedTuple):
    """Rows of the union, shuffled.

    Args:
        features: (B, D) float32, after Tukey's transform.
        labels: (B,) int64.
        head_rows: (H,) int64 positions of the real rows of head classes.
        head_features: (H, D) float32, the same rows before the transform, for the teacher.
    """

    features: Tensor
    labels: Tensor
    head_rows: Tensor
    head_features: Tensor


class GeneratedBatches:
    """Batches of the balanced union, a fresh one each epoch, drawn with the confidence of the moment.

    Args:
        is_head: (K,) bool.
        confidence: see `longtail.balancers.confidence`; whoever adapts it sets it here, where a restart finds it.
        seed: the training seed.
        device: where features are drawn; the random numbers come from the CPU.
    """

    def __init__(
        self,
        bank: FeatureBank,
        spec: Generation,
        is_head: Tensor,
        confidence: Confidence,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.bank, self.spec, self.is_head, self.confidence = bank, spec, is_head, confidence
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.is_sample = ~is_head[bank.labels] & (bank.class_counts < bank.class_counts.max())[bank.labels]

    def epoch(self, epoch: int) -> Iterator[tuple[GeneratedBatch]]:
        """Yield the batches of a generation epoch (0-based)."""
        draws = generator(self.seed, "union", epoch)
        union = balanced_union(self.bank.labels, self.is_head, draws)
        order = torch.randperm(len(union.labels), generator=draws)
        if self.spec.epoch_rows == "original":
            order = order[: len(self.bank.labels)]
        view = self.bank.features[epoch % len(self.bank.features)]
        statistics = self._statistics(view)
        supports = self._supports(view, statistics)
        rows_at_once = self.batch_size * max(CHUNK // (self.batch_size * view.shape[1]), 1)
        for number, rows in enumerate(torch.split(order, rows_at_once)):
            chunk = union.part(rows)
            chunk_draws = generator(self.seed, "features", epoch, number)
            features = self._features(view, chunk, statistics, supports, chunk_draws)
            for part in torch.split(torch.arange(len(rows)), self.batch_size):
                yield (self._batch(view, chunk.part(part), features[part.to(self.device)]),)

    def state_dict(self) -> dict[str, Any]:
        """Return the confidence."""
        return self.confidence.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the confidence."""
        self.confidence = Confidence(**{name: tensor.cpu() for name, tensor in state.items()})

    def examples(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Draw features for some tail classes from their clean images, to look at.

        Args:
            classes: (J,) int64, none of them a head class.

        Returns:
            (M, D) features as they would be before Tukey's transform, so that they lie among the bank's; (M,) labels.
        """
        view, draws = self.bank.features[0], generator(self.seed, "examples")
        by_class = rows_by_class(self.bank.labels, len(self.is_head))
        chosen = [by_class[k][torch.arange(EXAMPLES) % len(by_class[k])] for k in classes.tolist()]
        sources = torch.cat([by_class[0][:0], *chosen])
        chunk = Union(self.bank.labels[sources], sources, torch.ones_like(sources, dtype=torch.bool))
        statistics = self._statistics(view)
        features = self._calibrated(view, chunk, statistics, self._supports(view, statistics), draws)
        return inverse_tukey(features, self.spec.tukey).cpu(), chunk.labels

    def _rows(self, view: Tensor, rows: Tensor) -> Tensor:
        return tukey(view[rows].to(self.device).float(), self.spec.tukey)

    def _statistics(self, view: Tensor) -> ClassStatistics:
        power = self.spec.tukey if self.spec.statistics == "transformed" else 1.0
        by_class = rows_by_class(self.bank.labels, len(self.is_head))
        return ClassStatistics.of(tukey(view[rows].to(self.device).float(), power) for rows in by_class)

    def _supports(self, view: Tensor, statistics: ClassStatistics) -> Support:
        """Return the support sets of all N rows, on the device; those of rows that nothing is drawn from are zeros."""
        size = min(self.spec.support, len(self.is_head))
        classes = torch.zeros((len(view), size), dtype=torch.int64, device=self.device)
        weights = torch.zeros((len(view), size), device=self.device)
        rows_at_once = max(CHUNK // max(len(self.is_head), view.shape[1]), 1)
        for rows in torch.split(self.is_sample.nonzero()[:, 0], rows_at_once):
            labels = self.bank.labels[rows].to(self.device)
            found = support_sets(self._rows(view, rows), labels, statistics, size)
            classes[rows.to(self.device)], weights[rows.to(self.device)] = found
        return Support(classes, weights)

    def _features(
        self, view: Tensor, chunk: Union, statistics: ClassStatistics, supports: Support, draws: torch.Generator
    ) -> Tensor:
        """Return the features (M, D) of a chunk: real ones as they are, the others drawn."""
        features = torch.empty((len(chunk.labels), view.shape[1]), device=self.device)
        real = (~chunk.is_drawn).nonzero()[:, 0]
        features[real.to(self.device)] = self._rows(view, chunk.sources[real])
        whole = (chunk.sources < 0).nonzero()[:, 0]
        classes = chunk.labels[whole].to(self.device)
        features[whole.to(self.device)] = self._clamped(statistics.means[classes] + statistics.noise(classes, draws))
        drawn = (chunk.is_drawn & (chunk.sources >= 0)).nonzero()[:, 0]
        features[drawn.to(self.device)] = self._clamped(
            self._calibrated(view, chunk.part(drawn), statistics, supports, draws)
        )
        return features

    def _calibrated(
        self, view: Tensor, chunk: Union, statistics: ClassStatistics, supports: Support, draws: torch.Generator
    ) -> Tensor:
        sources = chunk.sources.to(self.device)
        return draw_calibrated(
            self._rows(view, chunk.sources),
            chunk.labels.to(self.device),
            self.confidence.beta[chunk.labels].to(self.device),
            Support(supports.classes[sources], supports.weights[sources]),
            statistics,
            self.spec.gamma,
            self.spec.gamma_form,
            draws,
        )

    def _clamped(self, features: Tensor) -> Tensor:
        return features.clamp(min=0) if self.spec.clamp else features

    def _batch(self, view: Tensor, part: Union, features: Tensor) -> GeneratedBatch:
        head_rows = (self.is_head[part.labels] & ~part.is_drawn).nonzero()[:, 0]
        return GeneratedBatch(features, part.labels, head_rows, view[part.sources[head_rows]].float())


def inverse_tukey(features: Tensor, power: float) -> Tensor:
    """Undo `longtail.models.classifier.tukey`; negative powers of features, which only draws have, become 0."""
    if power == 1:
        return features
    return features.exp() - 1e-6 if power == 0 else features.clamp(min=0) ** (1 / power)
