"""GLAG, stage two: the classifier learns from features drawn for the classes that lack them.

    loss = CE(z, y) over a balanced union of real and drawn features                          (GLAG eq. 5 to 10)
         + alpha(t) T^2 KL(softmax(h_1 / T) || softmax(z / T)) over real rows of head classes           (eq. 11)
    z    = lws * (W t(f) + b),   t: Tukey's power;   beta_k follows the validation accuracy of tail class k

A tail class borrows mean and spread from the nearest classes with more images; the stage-one classifier h_1 holds
the head classes in place while the boundary moves. The parts: `feature_generator`, `calibration`, `confidence`.

Source    GLAG, arXiv:2203.00452, sections 4.2, 5.1 and 5.3. No code is public
Differs   where the paper is silent, we decide: everything lives in the transformed space (`statistics: raw` is the
          letter of eq. 5 and 6); the rule for beta; the teacher sees raw features; a generation epoch is one pass
          over the whole union. Tail classes are all but the head classes, and candidates for a support set are all
          classes with more images, other tail classes included (eq. 7). A network with a cosine classifier teaches
          with scaled cosines, and its pupil too sees features of unit length
Limits    equal counts: nothing is drawn; beta_0 = 0 and no adaptation: each class draws on its own spread alone
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from longtail.balancers.confidence import Adaptation, Confidence
from longtail.balancers.feature_generator import GeneratedBatch, GeneratedBatches, Generation
from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.features.head_classes import HeadClasses
from longtail.features.scaled_classifier import LearningRates, ScaledClassifier
from longtail.images.labeled import LongTailSplit
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.spec import InputError, Member, Spec
from longtail.training.loop import History, Run, fit
from longtail.training.plans import Optimisation

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


class GLAG(Member):
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
