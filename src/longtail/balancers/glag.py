"""GLAG, stage two: the classifier learns from features drawn for the classes that lack them.

    loss = CE(z, y) over a balanced union of real and drawn features                          (GLAG eq. 5 to 10)
         + alpha(t) T^2 KL(softmax(h_1 / T) || softmax(z / T)) over real rows of head classes           (eq. 11)
    z    = lws * (W t(f) + b),   t: Tukey's power;   beta_k follows the validation accuracy of tail class k

A head class gets its missing rows from N(mu_k, Sigma_k), a tail class from the calibrated distributions of its own
samples (features/statistics.py): it borrows mean and spread, with confidence beta, from the nearest classes with more
images. The stage-one classifier h_1 holds the head classes in place while the boundary moves. A generation epoch takes
one view of the bank, computes its statistics, and draws chunk by chunk: the union is never in memory, and each chunk
has its own stream of random numbers, named by (seed, epoch, chunk).

How much a tail class borrows adapts to its validation accuracy a; g = 1 .. G counts the finished generation epochs:

    abar^g = m abar^(g-1) + (1 - m) a^g,   D = abar^g - reference
    sign:          beta += eta_g if D > tol, -= eta_g if D < -tol;   eta_g = step (1 - g / G)
    proportional:  beta += kappa D
    beta is clipped to [0, maximum]

Source    GLAG, arXiv:2203.00452, sections 4.2, 5.1 and 5.3. No code is public; a fresh view each epoch is TailCalibX,
          arXiv:2111.05956
Differs   where the paper is silent, we decide: everything lives in the transformed space (`statistics: raw` is the
          letter of eq. 5 and 6); the teacher sees raw features; a generation epoch is one pass over the whole union.
          The rule for beta ("if AFG improves the performance of the tail classes ... beta will be increased; if we
          observe worse performance ... decreased"): the sign rule is its most literal reading; the running average, the
          tolerance and the decay of the step keep the noise of some twenty validation images per class from driving it.
          Tail classes are all but the head classes, and candidates for a support set are all classes with more images,
          other tail classes included (eq. 7). A network with a cosine classifier teaches with scaled cosines, and its
          pupil too sees features of unit length
Limits    equal counts: nothing is drawn; beta_0 = 0 and no adaptation: each class draws on its own spread alone
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from longtail.balancers.base import BalancerSpec
from longtail.features.balanced_rows import Union, balanced_union
from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.features.head_classes import HeadClasses
from longtail.features.scaled_classifier import LearningRates, ScaledClassifier
from longtail.features.statistics import ClassStatistics, Support, draw_calibrated, rows_by_class, support_sets
from longtail.images.labeled import LongTailSplit
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models.classifier import Classifier, tukey
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError, Spec
from longtail.training.loop import History, Run, fit
from longtail.training.plans import Optimisation


@dataclass(frozen=True)
class Confidence:
    """Beta and the state of its rule; each (K,) float64.

    Args:
        beta: in [0, 1]; 0 for head classes, which borrow nothing.
        average: running validation accuracy, NaN for a class without validation images.
        reference: what the next average is compared with.
    """

    beta: Tensor
    average: Tensor
    reference: Tensor

    @classmethod
    def start(cls, beta_0: float, is_head: Tensor, accuracies: Tensor) -> "Confidence":
        """Begin with beta_0 on tail classes and the stage-one model's accuracies (K,) float64."""
        beta = torch.full_like(accuracies, beta_0).masked_fill(is_head, 0.0)
        return cls(beta, accuracies, accuracies)

    def state_dict(self) -> dict[str, Any]:
        """Return the three tensors by name."""
        return {"beta": self.beta, "average": self.average, "reference": self.reference}


class SignRule(Spec):
    """Move by a step that shrinks to zero; differences within the tolerance count as none.

    Args:
        step: of beta, at the start.
        tolerance: of accuracy; half an image of a class's validation images if that is less.
    """

    name: Literal["sign"] = "sign"
    step: float = Field(gt=0, le=1)
    tolerance: float = Field(ge=0, le=1)

    def change(self, difference: Tensor, images: Tensor, done: float) -> Tensor:
        """Return the change of beta (K,) for a difference of accuracies (K,), see `Adaptation.updated`."""
        tolerance = (0.5 / images.double()).clamp(max=self.tolerance)
        direction = (difference > tolerance).double() - (difference < -tolerance).double()
        return self.step * (1 - done) * direction


class ProportionalRule(Spec):
    """Move in proportion to the difference."""

    name: Literal["proportional"] = "proportional"
    kappa: float = Field(gt=0)

    def change(self, difference: Tensor, images: Tensor, done: float) -> Tensor:
        """Return the change of beta (K,) for a difference of accuracies (K,)."""
        return self.kappa * difference


class Adaptation(Spec):
    """How beta follows validation accuracy.

    Args:
        compare: the running average with the `previous` one, with that of `stage1`, or with the `best` so far.
        momentum: m of the running average; 0 takes the newest alone.
        maximum: of beta; below 1, a class's own samples always matter.
    """

    compare: Literal["previous", "stage1", "best"]
    momentum: float = Field(ge=0, lt=1)
    maximum: float = Field(gt=0, le=1)
    rule: Annotated[SignRule | ProportionalRule, Field(discriminator="name")]

    def updated(self, old: Confidence, accuracies: Tensor, images: Tensor, is_head: Tensor, done: float) -> Confidence:
        """Return the confidence after another generation epoch.

        Args:
            accuracies: (K,) float64 validation accuracy of the classifier now, NaN for a class without images.
            images: (K,) validation images per class.
            is_head: (K,) bool; beta of these stays, as that of classes without images.
            done: g / G, the share of generation epochs done, in (0, 1].
        """
        average = self.momentum * old.average + (1 - self.momentum) * accuracies
        difference = average - old.reference
        beta = (old.beta + self.rule.change(difference, images, done)).clamp(0, self.maximum)
        stays = is_head | difference.isnan()
        reference = {"previous": average, "stage1": old.reference, "best": torch.maximum(old.reference, average)}
        return Confidence(torch.where(stays, old.beta, beta), average, reference[self.compare])


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
        confidence: see `Confidence`; the adaptation sets it here, where a restart finds it.
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


SHOWN = 8  # classes
Off = BeforeValidator(lambda value: None if value is False else value)


class Distillation(Spec):
    """Knowledge distillation from stage one on real rows of head classes (GLAG eq. 11).

    Args:
        temperature: T.
        alpha: its weight over progress, in the form of stage one (GLAG eq. 3): none at first.
    """

    temperature: float = Field(gt=0)
    alpha: GradualBalanced


class GLAG(BalancerSpec):
    """Train the classifier on real and generated features.

    Args:
        beta_0: confidence in the support sets at the start; 0 takes only a class's own spread.
        adaptive: how beta adapts; false for a fixed beta.
        head_classes: which classes are distilled and draw from their own distribution; all others are calibrated.
        distillation: false for none.
        plan: an epoch is a generation epoch.
    """

    name: Literal["glag"] = "glag"
    beta_0: float = Field(ge=0, le=1)
    adaptive: Annotated[Adaptation | None, Off]
    head_classes: HeadClasses
    generation: Generation
    distillation: Annotated[Distillation | None, Off]
    lr_factors: LearningRates
    plan: Optimisation

    @model_validator(mode="after")
    def _beta_starts_in_range(self) -> Self:
        if self.adaptive and self.beta_0 > self.adaptive.maximum:
            raise ValueError(f"beta_0 {self.beta_0:g} is above adaptive.maximum {self.adaptive.maximum:g}; lower it")
        return self

    def without_validation(self) -> str | None:
        """Return what to change where there are no validation images; None if nothing needs any."""
        return "adaptive: false" if self.adaptive else None

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Train for the plan's generation epochs.

        Returns:
            The classifier, with lws folded into weight and bias, and one row per epoch with `beta` (K numbers, 0 for
            head classes) and, where there are validation images, `val_accuracy`.

        Raises:
            InputError: if beta is to adapt without validation images, distillation has no head class, or Tukey's
                transform meets negative features.
        """
        is_head = self.head_classes.mask(bank.class_counts)
        self._check(bank, is_head, run.name)
        teacher = network.classifier.export()
        images = torch.bincount(bank.val_labels, minlength=len(is_head))
        confidence = Confidence.start(self.beta_0, is_head, validation_accuracies(teacher, bank, run.device))
        batches = self._batches(bank, is_head, confidence, run)
        step = GLAGStep(teacher, self.generation.tukey, self.lr_factors, self.distillation)

        def evaluate(epoch: int) -> History:
            accuracies, done = validation_accuracies(step.export(), bank, run.device), (epoch + 1) / self.plan.epochs
            if self.adaptive:
                batches.confidence = self.adaptive.updated(batches.confidence, accuracies, images, is_head, done)
            return {**validation_row(accuracies), "beta": batches.confidence.beta.tolist()}

        history = fit(step, batches, self.plan, run, evaluate)
        return step.export(), history

    def generated(self, bank: FeatureBank, history: list[History], run: Run) -> dict[str, Tensor]:
        """Draw features of the rarest tail classes with the last beta of a history, for people to look at.

        Returns:
            `features` (M, D) float16 in the space of the bank and `labels` (M,) int64; both empty without a tail.
        """
        is_head = self.head_classes.mask(bank.class_counts)
        beta = torch.tensor(history[-1]["beta"], dtype=torch.float64)
        batches = self._batches(bank, is_head, Confidence(beta, beta, beta), run)
        order = bank.class_counts.argsort(stable=True)
        tail = order[(~is_head & (bank.class_counts < bank.class_counts.max()))[order]][:SHOWN]
        features, labels = batches.examples(tail)
        return {"features": features.half(), "labels": labels}

    def _batches(self, bank: FeatureBank, is_head: Tensor, confidence: Confidence, run: Run) -> GeneratedBatches:
        size = self.plan.batch_size
        return GeneratedBatches(bank, self.generation, is_head, confidence, size, run.seed, run.device)

    def _check(self, bank: FeatureBank, is_head: Tensor, run_name: str) -> None:
        if self.adaptive and not len(bank.val_labels):
            raise InputError(
                f"{run_name} adapts to validation accuracy, but the split has no validation images. "
                "Set data.validation.per_class to 20, or balancer.adaptive: false."
            )
        if self.distillation and not is_head.any():
            raise InputError(
                f"{run_name}: balancer.distillation needs a head class, but the largest class has "
                f"{int(bank.class_counts.max())} training images. "
                "Lower balancer.head_classes.above, or set balancer.distillation: false."
            )
        self.generation.check(bank)


class GLAGStep(ScaledClassifier):
    """The loss of stage two (GLAG eq. 11) and the classifier that it trains.

    Args:
        teacher: the stage-one classifier, on raw features.
        power: of Tukey's transform; batches come transformed.
    """

    def __init__(
        self, teacher: Classifier, power: float, lr_factors: LearningRates, distillation: Distillation | None
    ) -> None:
        super().__init__(teacher, lr_factors)
        self.teacher, self.power, self.distillation = teacher, power, distillation

    def forward(self, batch: GeneratedBatch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise, in nats."""
        logits = self.logits(batch.features)
        loss = F.cross_entropy(logits, batch.labels)
        if self.distillation is None:
            return loss
        teaching = distillation_loss(
            logits[batch.head_rows], self.teacher(batch.head_features), self.distillation.temperature
        )
        return loss + self.distillation.alpha.alpha(progress).to(loss.dtype) * teaching

    def export(self) -> Classifier:
        """Return the classifier, which transforms features itself."""
        return replace(super().export(), power=self.power)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || pupil) at temperature T, the mean over B rows, 0 for none.

    Args:
        logits: (B, K) of the pupil.
        teacher: (B, K) logits.

    Returns:
        0-d, in nats.
    """
    if not len(logits):
        return logits.new_zeros(())
    pupil, goal = (logits / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(pupil, goal, reduction="batchmean", log_target=True)
