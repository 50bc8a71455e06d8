"""A number that is given, or chosen from a grid by accuracy on validation features: what training-free balancers share.

Ties go to the smallest candidate, the one that changes the classifier least. Test images never choose.
"""

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, model_validator

from longtail.features.bank import FeatureBank
from longtail.features.batches import validation_accuracies, validation_row
from longtail.models.classifier import Classifier
from longtail.spec import InputError, Spec
from longtail.training.loop import History, Run


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


NumberOrGrid = Annotated[
    Annotated[float, Field(ge=0), Tag("number")] | Annotated[Grid, Tag("grid")],
    Discriminator(lambda value: "grid" if isinstance(value, dict | Grid) else "number"),
]


def choose_tau(
    tau: float | Grid, classifier_at: Callable[[float], Classifier], bank: FeatureBank, run: Run
) -> tuple[Classifier, list[History]]:
    """Take the number, or the one in the grid with the best mean accuracy per class on the validation features.

    Args:
        classifier_at: what the balancer returns for a number.

    Returns:
        The classifier, and one row with `tau` and, where there are validation images, `val_accuracy`.

    Raises:
        InputError: if tau is to be chosen and there are no validation images.
    """
    if isinstance(tau, Grid) and not len(bank.val_labels):
        raise InputError(
            f"{run.name} chooses tau by validation accuracy, but the split has no validation images. "
            "Set data.validation.per_class to 20, or give balancer.tau a number such as 1.0."
        )
    candidates = tau.values() if isinstance(tau, Grid) else [tau]
    accuracies = [validation_accuracies(classifier_at(candidate), bank, run.device) for candidate in candidates]
    means = [float(per_class.nanmean()) for per_class in accuracies]
    best = means.index(max(means)) if len(means) > 1 else 0  # the first of several equals
    row: History = {"epoch": 0, "tau": candidates[best], **validation_row(accuracies[best])}
    run.log(row)
    return classifier_at(candidates[best]), [row]
