"""Optimisation plans: SGD, its schedule, and what stage one adds (augmentation, precision, compilation)."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from longtail.loading.augmentation import Augmentation
from longtail.spec import Spec


class CosineSchedule(Spec):
    """lr falls as half a cosine from the end of the warm-up to zero after the last epoch."""

    name: Literal["cosine"] = "cosine"

    def multiplier(self, t: float, after_warmup: float) -> float:
        """Return lr / base lr; `after_warmup` is the share of the epochs behind the warm-up that is done."""
        return 0.5 * (1 + math.cos(math.pi * after_warmup))


class StepSchedule(Spec):
    """lr is multiplied by gamma at each milestone (a share of all epochs), cumulatively: 0.01 twice is 1e-4."""

    name: Literal["step"] = "step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    gamma: float = Field(gt=0, le=1)

    def multiplier(self, t: float, after_warmup: float) -> float:
        """Return lr / base lr at progress t."""
        return self.gamma ** sum(t >= milestone for milestone in self.milestones)


class ConstantSchedule(Spec):
    """lr stays."""

    name: Literal["constant"] = "constant"

    def multiplier(self, t: float, after_warmup: float) -> float:
        """Return 1."""
        return 1.0


Schedule = Annotated[CosineSchedule | StepSchedule | ConstantSchedule, Field(discriminator="name")]


class Optimisation(Spec):
    """SGD and its schedule, for either stage; the learning rate is constant within an epoch.

    Args:
        lr: base learning rate; epoch e < warmup has (e + 1) / warmup of it.
        warmup: epochs.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    nesterov: bool
    weight_decay: float = Field(ge=0)
    warmup: int = Field(ge=0)
    schedule: Schedule

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true, but momentum is 0; set momentum above 0, or nesterov: false")
        return self

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch (0-based)."""
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / self.warmup
        after_warmup = (epoch - self.warmup) / max(self.epochs - self.warmup, 1)
        return self.lr * self.schedule.multiplier(epoch / self.epochs, after_warmup)


class Plan(Optimisation):
    """Stage one: the optimisation, what happens to the images, and how the hardware is used.

    Args:
        precision: `auto` is bfloat16 autocast where the hardware multiplies in it, else float32.
        compile: `auto` compiles where the plan is long enough to pay for it and a C++ compiler exists.
        validate_every: epochs between validation accuracies in the learning curve (0: only after the last); they
            are drawn, never used to choose anything.
    """

    augmentation: Augmentation
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "on", "off"]
    validate_every: int = Field(ge=0)

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
