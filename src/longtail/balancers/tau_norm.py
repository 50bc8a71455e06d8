"""tau-normalisation: classifier weights at more equal lengths, without training.

    w_k <- w_k / ||w_k||^tau,   no bias

Frequent classes have grown the longer weights, so their logits win; tau = 1 makes all lengths equal.

Source    Kang et al., ICLR 2020, arXiv:1910.09217, section 4.3
Differs   tau is chosen by mean per-class accuracy on images held out of train; never on test
Limits    tau = 0: the stage-one classifier without its bias; weights of equal length (a cosine classifier): no change
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from longtail.data.images import LongTailSplit
from longtail.feature_batches import validation_accuracies, validation_row
from longtail.features import FeatureBank
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.spec import InputError, Member, Spec
from longtail.training import History, Run


class Grid(Spec):
    """Numbers from `start` to `stop`, both included, in steps of `step`."""

    start: float = Field(ge=0)
    stop: float
    step: float = Field(gt=0)

    @model_validator(mode="after")
    def _runs_upwards(self) -> Self:
        if self.stop < self.start:
            raise ValueError(f"start {self.start:g} is above stop {self.stop:g}; exchange them")
        return self

    def values(self) -> list[float]:
        """Return the numbers, ascending."""
        count = int((self.stop - self.start) / self.step + 1e-6) + 1
        return [round(self.start + i * self.step, 10) for i in range(count)]


class TauNorm(Member):
    """Scale the network's classifier.

    Args:
        tau: a number, or the grid in which validation accuracy chooses (ties: the smallest tau).
    """

    name: Literal["tau_norm"] = "tau_norm"
    tau: Annotated[
        Annotated[float, Field(ge=0), Tag("number")] | Annotated[Grid, Tag("grid")],
        Discriminator(lambda value: "grid" if isinstance(value, dict | Grid) else "number"),
    ]

    def without_validation(self) -> str | None:
        """Return what to change where there are no validation images; None if nothing needs any."""
        return "tau: 1.0" if isinstance(self.tau, Grid) else None

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Choose tau and scale.

        Returns:
            The classifier, and one row with `tau` and, where there are validation images, `val_accuracy`.

        Raises:
            InputError: if tau is to be chosen and there are no validation images.
        """
        if isinstance(self.tau, Grid) and not len(bank.val_labels):
            raise InputError(
                f"{run.name} chooses tau by validation accuracy, but the split has no validation images. "
                "Set data.validation.per_class to 20, or give balancer.tau a number such as 1.0."
            )
        classifier = network.classifier.export()
        candidates = self.tau.values() if isinstance(self.tau, Grid) else [self.tau]
        accuracies = [validation_accuracies(normalised(classifier, tau), bank, run.device) for tau in candidates]
        means = [float(per_class.nanmean()) for per_class in accuracies]
        best = means.index(max(means)) if len(means) > 1 else 0  # the first of several equals
        row: History = {"epoch": 0, "tau": candidates[best], **validation_row(accuracies[best])}
        run.log(row)
        return normalised(classifier, candidates[best]), [row]


def normalised(classifier: Classifier, tau: float) -> Classifier:
    """Return w_k / ||w_k||^tau without bias; weights of length zero stay zero."""
    norms = torch.linalg.vector_norm(classifier.weight, dim=1, keepdim=True)
    weight = classifier.weight / norms.clamp(min=1e-12) ** tau
    return replace(classifier, weight=weight, bias=torch.zeros_like(classifier.bias))
