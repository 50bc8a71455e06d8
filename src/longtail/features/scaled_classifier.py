"""What stage two trains where the classifier starts from stage one: z = lws * (W f + b), each part at its own rate."""

from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.classifier import Classifier
from longtail.spec import Spec
from longtail.training.loop import Step


class LearningRates(Spec):
    """Factors of the plan's lr for the parts of the classifier; 0 freezes a part.

    Args:
        fc: weight and bias, which start from stage one.
        lws: one scale per class, which starts at 1 (learnable weight scaling).
    """

    fc: float = Field(ge=0)
    lws: float = Field(ge=0)

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if not self.fc and not self.lws:
            raise ValueError("fc and lws are both 0, so nothing would be trained; set one of them to 1.0")
        return self


class ScaledClassifier(Step):
    """A classifier with one learnable scale per class.

    Args:
        start: the stage-one classifier, which stays as it is.
    """

    def __init__(self, start: Classifier, lr_factors: LearningRates) -> None:
        super().__init__()
        self.start, self.lr_factors = start, lr_factors
        self.weight = nn.Parameter(start.weight.clone(), requires_grad=lr_factors.fc > 0)
        self.bias = nn.Parameter(start.bias.clone(), requires_grad=lr_factors.fc > 0)
        self.lws = nn.Parameter(torch.ones_like(start.bias), requires_grad=lr_factors.lws > 0)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups that learn, each with its `lr_factor`."""
        groups = [([self.weight, self.bias], self.lr_factors.fc), ([self.lws], self.lr_factors.lws)]
        return [{"params": parameters, "lr_factor": factor} for parameters, factor in groups if factor]

    def logits(self, features: Tensor) -> Tensor:
        """Map features (B, D) to logits (B, K); to unit length first where stage one had a cosine classifier."""
        features = F.normalize(features) if self.start.unit_norm else features
        return self.lws * F.linear(features, self.weight, self.bias)

    @torch.no_grad()
    def export(self) -> Classifier:
        """Return the classifier with the scales folded into weight and bias."""
        return replace(self.start, weight=self.lws[:, None] * self.weight, bias=self.lws * self.bias)
