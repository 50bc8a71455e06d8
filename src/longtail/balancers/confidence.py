"""GLAG's class-wise confidence beta: how much a tail class borrows, adapted to its validation accuracy.

    abar^g = m abar^(g-1) + (1 - m) a^g,   D = abar^g - reference
    sign:          beta += eta_g if D > tol, -= eta_g if D < -tol;   eta_g = step (1 - g / G)
    proportional:  beta += kappa D
    beta is clipped to [0, maximum];  g = 1 .. G counts the generation epochs that are done

Source    GLAG, arXiv:2203.00452, sections 4.2 and 5.3: "if AFG improves the performance of the tail classes ... beta
          will be increased; if we observe worse performance ... decreased"
Differs   the paper states no rule. The sign rule is its most literal reading; the running average, the tolerance and
          the decay of the step keep the noise of some twenty validation images per class from driving it
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.spec import Spec


@dataclass(frozen=True)
class Confidence:
    """Beta and what its rule remembers; each (K,) float64.

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
        momentum: m of the running average; 0 forgets at once.
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
