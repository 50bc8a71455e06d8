"""Which training images make the tail: the convention of the field, so that numbers compare.

For classes in ascending label order, the indices of the class in file order are shuffled by the legacy MT19937
generator and the first n_k are kept; the result is concatenated class by class. Seed 0 gives exactly the subsets of
LDAM-DRW, BBN, MiSLAS, CMO and Bag of Tricks (10,847 images of CIFAR-100 at imbalance 100). `first` keeps the first n_k
in file order, as RSG and M2m do. The seed of the split stands apart from the seeds of training: another network, same
images.

Source    Cao et al., NeurIPS 2019, arXiv:1906.07413, code `imbalance_cifar.py`
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from longtail.data.profiles import Profile, exponential, pareto, step
from longtail.data.validation import Validation
from longtail.spec import InputError, Spec

Value = TypeVar("Value")


class Cut(Spec):
    """Which of a source's training images are kept and which validate: the part of `data` that all sources share.

    Args:
        path: where files are looked for first.
        imbalance_factor: n_max / n_min >= 1 of a synthetic profile; null for `natural`, which keeps every image.
        pareto_shape: of profile `pareto`; null otherwise.
        subset: `ldam` shuffles each class by `seed`, `first` takes file order.
        seed: of the split, never of training; null where nothing is shuffled.
    """

    sides_by_content: ClassVar[bool] = False  # own images: content decides the side of each, not its place in a file

    path: str = Field(min_length=1)
    profile: Profile
    imbalance_factor: float | None
    pareto_shape: float | None = Field(gt=0)
    subset: Literal["ldam", "first"] | None
    seed: int | None = Field(ge=0, lt=2**32)
    validation: Validation

    @field_validator("imbalance_factor", "pareto_shape", "subset", "seed")
    @classmethod
    def _refuse_what_would_be_ignored(cls, value: Value | None, info: ValidationInfo) -> Value | None:
        key = "subset" if info.field_name == "seed" else "profile"
        if key not in info.data:  # wrong itself, and reported for that
            return value
        chosen = info.data[key] or "null"
        needed = {
            "imbalance_factor": chosen != "natural",
            "pareto_shape": chosen == "pareto",
            "subset": chosen != "natural" or not cls.sides_by_content,  # a holdout of official files needs an order too
            "seed": chosen == "ldam",
        }[str(info.field_name)]
        if needed and value is None:
            raise ValueError(f"it is null, but data.{key} {chosen} needs it; give it a value")
        if not needed and value is not None:
            raise ValueError(f"it is {value}, but data.{key} {chosen} would ignore it; set it to null")
        return value

    @field_validator("imbalance_factor")
    @classmethod
    def _refuse_less_than_one(cls, value: float | None) -> float | None:
        if value is not None and value < 1:
            raise ValueError(f"it is {value:g}, but means n_max / n_min; write 1 or more, such as 100")
        return value

    @field_validator("validation")
    @classmethod
    def _check_validation(cls, value: Validation, info: ValidationInfo) -> Validation:
        if value.source == "unused" and cls.sides_by_content:
            raise ValueError(
                "source is unused, but the sides of own images are fixed for ever; set it to holdout or official"
            )
        if value.source == "unused" and info.data.get("profile") == "natural":
            raise ValueError("source is unused, but data.profile natural leaves no image unused; set it to holdout")
        if value.source == "official" and not cls.sides_by_content:
            raise ValueError(
                "source is official, but these data come without validation images; set it to unused or holdout"
            )
        return value

    def class_counts(self, available: Sequence[int], classes: Sequence[str]) -> list[int]:
        """Return how many training images each class keeps.

        Args:
            available: images per class in the pool; the smallest is n_max, so that any class could be the head.
            classes: names, for messages.

        Raises:
            InputError: a class would be left without an image.
        """
        if self.profile == "natural":
            return list(available)
        smallest = min(available)
        counts = self._synthetic(smallest, len(available))
        if min(counts) < 1:
            name, shown = classes[counts.index(min(counts))], f"{self.imbalance_factor:g}"
            raise InputError(
                f"data.imbalance_factor is {shown}, which leaves class {name} no image, since the smallest has only "
                f"{smallest}; choose at most {smallest}, or data.profile natural to keep the data's own tail."
            )
        return counts

    def _synthetic(self, n_max: int, classes: int) -> list[int]:
        factor = self.imbalance_factor
        assert factor is not None
        if self.profile == "pareto":
            assert self.pareto_shape is not None
            return pareto(n_max, classes, factor, self.pareto_shape)
        return (step if self.profile == "step" else exponential)(n_max, classes, factor)


def streams(labels: Tensor, classes: int, subset: str | None, seed: int | None) -> list[Tensor]:
    """Order the images of each class; a subset is the beginning of each stream.

    Args:
        labels: (N,) int64 in file order.
        subset: `ldam` shuffles; anything else keeps file order.

    Returns:
        K index tensors int64, in label order.
    """
    by_class = np.split(
        np.argsort(labels.numpy(), kind="stable"), torch.bincount(labels, minlength=classes).cumsum(0)[:-1]
    )
    if subset == "ldam":
        legacy = np.random.RandomState(seed)  # not longtail.seeding: the published subsets are this generator's
        for indices in by_class:
            legacy.shuffle(indices)
    return [torch.from_numpy(indices) for indices in by_class]


def digest(keys: Iterable[bytes]) -> str:
    """Return the sha256 of the chosen images' keys in their stored order.

    Images of an official file have their index in it as key, 8 bytes little-endian signed: the digest is then that of
    `numpy.asarray(chosen, dtype="<i8").tobytes()`.
    """
    total = hashlib.sha256()
    for key in keys:
        total.update(key)
    return total.hexdigest()
