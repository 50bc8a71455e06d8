"""Which classes count as head: the papers' own split, apart from the many, medium and few of a Report."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.spec import Spec


class ManyShot(Spec):
    """Classes with more than `above` training images."""

    name: Literal["many_shot"] = "many_shot"
    above: int = Field(ge=0)

    def mask(self, class_counts: Tensor) -> Tensor:
        """Return (K,) bool, true for head classes, for training counts (K,)."""
        return class_counts > self.above


class Share(Spec):
    """The fewest largest classes that together hold `share` of the images (OFA, ECCV 2020); ties: the lower label."""

    name: Literal["share"] = "share"
    share: float = Field(gt=0, le=1)

    def mask(self, class_counts: Tensor) -> Tensor:
        """Return (K,) bool, true for head classes, for training counts (K,)."""
        order = class_counts.argsort(descending=True, stable=True)
        before = class_counts[order].cumsum(0) - class_counts[order]
        mask = torch.empty_like(class_counts, dtype=torch.bool)
        mask[order] = before.double() < self.share * float(class_counts.sum())
        return mask


class Largest(Spec):
    """The largest class alone (all of them, if several have as many images)."""

    name: Literal["largest"] = "largest"

    def mask(self, class_counts: Tensor) -> Tensor:
        """Return (K,) bool, true for head classes, for training counts (K,)."""
        return class_counts == class_counts.max()


HeadClasses = Annotated[ManyShot | Share | Largest, Field(discriminator="name")]
