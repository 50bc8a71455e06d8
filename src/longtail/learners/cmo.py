"""Context-rich minority over-sampling (CMO): CutMix that pastes patches of rare classes onto images as they come.

    x' = M x + (1 - M) x2,   L = l loss(f(x'), y) + (1 - l) loss(f(x'), y2),   l = mean of M, which is 0 in a box

(x, y) are drawn uniformly, (x2, y2) by 1 / n (the sampler `class_balanced`: every image with weight 1 / n_y). One box
per batch: side sqrt(1 - l') of the image's, l' ~ Beta(beta, beta), its centre uniform, what leaves the image cut off.
A batch is mixed with `probability`, in the epochs from `start` on and before `stop`; else it is plain.

Source    Park et al., CVPR 2022, arXiv:2112.00412, from memory; the rest as its released code: probability 0.5,
          beta 1, and epochs e with 3 < e < E - 3, counted from 0: of E = 200, epochs 4 to 196, which is start 0.02
          (4 / 200, the first that mixes) and stop 0.985 (197 / 200, the first that does not)
Differs   with class weights (DRW), see longtail.learners.mixing
Limits    probability = 0 or start = stop: plain learning of (x, y); box of the whole image: of (x2, y2)
"""

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from longtail.learners.base import LearnerSpec
from longtail.learners.mixing import draw_share, mixed_objective, share_while
from longtail.models.network import Network
from longtail.training.loop import Step
from longtail.training.objective import Objective

Box = tuple[int, int, int, int]


class CMO(LearnerSpec):
    """The objective of uniform images with patches of class-balanced ones.

    Args:
        probability: that a batch is mixed; 0.5 in the code.
        beta: of the Beta that the box's size is drawn from; 1 in the code.
        start: progress of the first epoch that mixes; 0.02 is epoch 4 of 200, counted from 0.
        stop: progress of the first epoch that mixes no more; 0.985 is epoch 197 of 200.
    """

    batches: ClassVar[int] = 2

    name: Literal["cmo"] = "cmo"
    probability: float = Field(ge=0, le=1)
    beta: float = Field(gt=0)
    start: float = Field(ge=0, le=1)
    stop: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> Self:
        if self.start > self.stop:
            raise ValueError(f"start {self.start:g} comes after stop {self.stop:g}; write a stop of at least the start")
        return self

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains."""
        return CMOStep(network, objective, self)


class CMOStep(Step):
    """objective(network(backgrounds with patches), both labels)."""

    def __init__(self, network: Network, objective: Objective, spec: CMO) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec

    def forward(self, uniform: Any, balanced: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for two batches of images (B, C, H, W) and labels (B,).

        Draws whether to mix, and if so l' and the box, in every step: also outside `start` and `stop`, when the box
        counts as empty.
        """
        images, labels = uniform
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= self.spec.probability:
            loss: Tensor = self.objective(self.network(images), labels, progress)
            return loss
        height, width = images.shape[-2:]
        box = draw_box(height, width, draw_share(self.spec.beta, generator), generator)
        active = (progress >= self.spec.start) & (progress < self.spec.stop)
        share = share_while(active, background_share(box, height, width), images)
        logits = self.network(paste(images, balanced.images, inside(box, images) & active))
        return mixed_objective(self.objective, logits, labels, balanced.labels, share, progress)


def draw_box(height: int, width: int, share: float, generator: torch.Generator) -> Box:
    """Draw the box that leaves about `share` of the image: top, bottom, left, right, cut off at the image's edges.

    Draws the centre's row, then its column.
    """
    side = math.sqrt(1 - share)
    top, bottom = _interval(height, int(height * side), generator)
    left, right = _interval(width, int(width * side), generator)
    return top, bottom, left, right


def _interval(size: int, length: int, generator: torch.Generator) -> tuple[int, int]:
    centre = int(torch.randint(size, (), generator=generator))
    return max(centre - length // 2, 0), min(centre + length // 2, size)


def background_share(box: Box, height: int, width: int) -> float:
    """Return l, the share of the image that the box leaves, in [0, 1]."""
    top, bottom, left, right = box
    return 1 - (bottom - top) * (right - left) / (height * width)


def inside(box: Box, images: Tensor) -> Tensor:
    """Return which pixels lie in the box, (H, W) bool on the images' device."""
    top, bottom, left, right = box
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))


def paste(images: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the pixels of the patches where the mask (H, W) says so, channels last."""
    return torch.where(mask, patches, images).contiguous(memory_format=torch.channels_last)
