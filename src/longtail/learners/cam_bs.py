"""CAM-based sampling: what a trained network looks at in an image, moved about in it, so that repeats are not copies.

    M = CAM_y >= threshold mean(CAM_y),   x' = T(M) T(x) + (1 - T(M)) x
    T   one of: rotation by -45...45 degrees and scaling by 0.8...1.2 about the middle of M's box; translation by whole
        pixels that keeps M's box in the frame; horizontal flip of the frame
    P(an image of class k is shown as x') = (n_max + n_min - n_k) / (n_max + n_min)

To be drawn by the sampler class_balanced. CAM_y is the activation map of the image's class in the network that the row
starts from, kept frozen; it is stretched to [0, 1] and resized bilinearly. P is the share of generated images in the
paper's pool, which has the n_k images of each class and n_max + n_min - n_k generated ones.

Source    Zhang et al., AAAI 2021 (Bag of Tricks for Long-Tailed Visual Recognition), and its released code
Differs   views are drawn afresh in each step, of images that the row has augmented, not once into a pool on disk. The
          code shows the moved picture, not the image, where the object stood before; takes the first two rows and
          columns of M for its box; draws whole degrees and percents; and treats black pixels as holes. For large data
          it leaves frequent classes alone and limits what a class can gain: not here. n_min is of classes that have
          images. A CAM that is flat or no number moves nothing
Limits    threshold 0: the picture as a whole is moved; a threshold that no pixel reaches: plain learning
"""

import math
from copy import deepcopy
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.learners.base import LearnerSpec
from longtail.models.activation import activation_maps, min_max
from longtail.models.network import Network
from longtail.training.loop import Step
from longtail.training.objective import Objective

DEGREES, SCALES = (-45.0, 45.0), (0.8, 1.2)
DRAWS = 6  # whether, which, angle, scale, down, right


class CamBS(LearnerSpec):
    """The objective of images some of whose objects have been moved.

    Args:
        threshold: share of a CAM's mean from which a pixel is foreground; 0.75 in the code.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = "linear"
    needs_start: ClassVar[bool] = True

    name: Literal["cam_bs"] = "cam_bs"
    threshold: float = Field(ge=0)

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains; the network's present weights stay those that see."""
        return CamBSStep(network, objective, self)


class CamBSStep(Step):
    """objective(network(images with moved objects), labels); owns the network that sees objects, which stays frozen."""

    def __init__(self, network: Network, objective: Objective, spec: CamBS) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec
        self.guide = deepcopy(network).freeze()

    def train(self, mode: bool = True) -> Self:
        """Put the network in train or eval mode; the guide stays in eval mode."""
        super().train(mode)
        self.guide.eval()
        return self

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,).

        Draws six numbers per image, needed or not.
        """
        images, labels = batch
        draws = torch.rand((len(labels), DRAWS), generator=generator, dtype=torch.float64)
        moved = self.transform(images, labels, draws.to(labels.device, non_blocking=True))
        loss: Tensor = self.objective(self.network(moved), labels, progress)
        return loss

    @torch.no_grad()
    def transform(self, images: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        """Move the objects of those images (B, C, H, W) whose draws (B, 6) say so."""
        cams = activation_maps(self.guide.maps(images), self.guide.classifier.weight, labels)
        chosen = draws[:, 0] < generated_share(self.objective.class_counts)[labels]
        masks = foreground(cams, self.spec.threshold, images.shape[-2:]) & chosen[:, None, None]
        return paste(images, masks, sources(masks, draws[:, 1:]))


def generated_share(class_counts: Tensor) -> Tensor:
    """Return for training counts (K,) how much of each class's pool is generated, (K,) float64 in [0, 1)."""
    counts = class_counts.double()
    total = counts.max() + torch.where(counts > 0, counts, math.inf).min()
    return (total - counts) / total


def foreground(cams: Tensor, threshold: float, size: torch.Size) -> Tensor:
    """Return which pixels reach `threshold` times the mean of their CAM.

    Args:
        cams: (B, H', W').
        size: (H, W) of the images.

    Returns:
        (B, H, W) bool, nowhere where a CAM is flat or no number.
    """
    stretched, flat = min_max(cams)
    attention = F.interpolate(stretched[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    return (attention >= threshold * attention.mean((1, 2), keepdim=True)) & ~flat[:, None, None]


def extent(covered: Tensor) -> Tensor:
    """Return the first and last covered place of each row of (B, L) bool, (B, 2) float64; the ends if there is none."""
    first = covered.double().argmax(1)
    last = covered.shape[1] - 1 - covered.flip(1).double().argmax(1)
    return torch.stack([first, last], 1).double()


def sources(masks: Tensor, draws: Tensor) -> Tensor:
    """Return for each pixel of the new image where in the old one it comes from.

    Args:
        masks: (B, H, W) bool, the foregrounds.
        draws: (B, 5) float64 in [0, 1): which transformation, angle, scale, translation down and to the right.

    Returns:
        (B, H, W, 2) float64, row and column in pixels; outside the frame where there is none.
    """
    height, width = masks.shape[1:]
    rows, columns = (torch.arange(n, dtype=torch.float64, device=masks.device) for n in (height, width))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).expand(len(masks), -1, -1, -1)
    box = torch.stack([extent(masks.any(2)), extent(masks.any(1))], 1)
    choices = (
        turn(places, box.mean(2), draws[:, 1], draws[:, 2]),
        shift(places, box, draws[:, 3:]),
        torch.stack([places[..., 0], width - 1 - places[..., 1]], -1),
    )
    which = (draws[:, 0] * len(choices)).long()[:, None, None, None]
    return torch.where(which == 0, choices[0], torch.where(which == 1, choices[1], choices[2]))


def turn(places: Tensor, middle: Tensor, angle: Tensor, scale: Tensor) -> Tensor:
    """Undo a rotation and scaling about `middle`.

    Args:
        places: (B, H, W, 2), rows and columns of the new image.
        middle: (B, 2).
        angle, scale: (B,) in [0, 1), uniform draws.

    Returns:
        (B, H, W, 2), rows and columns of the old image.
    """
    radians = torch.deg2rad(DEGREES[0] + (DEGREES[1] - DEGREES[0]) * angle)[:, None, None]
    factor = (SCALES[0] + (SCALES[1] - SCALES[0]) * scale)[:, None, None]
    row, column = (places - middle[:, None, None]).unbind(-1)
    turned = torch.stack(
        [radians.cos() * row + radians.sin() * column, radians.cos() * column - radians.sin() * row], -1
    )
    return middle[:, None, None] + turned / factor[..., None]


def shift(places: Tensor, box: Tensor, draws: Tensor) -> Tensor:
    """Undo a translation that keeps the box in the frame.

    Args:
        places: (B, H, W, 2), rows and columns of the new image.
        box: (B, 2, 2), first and last row, first and last column.
        draws: (B, 2) in [0, 1), uniform.

    Returns:
        (B, H, W, 2), rows and columns of the old image.
    """
    first, last = box.unbind(2)
    room = places.new_tensor(places.shape[1:3]) - last + first
    steps = (draws * room).floor() - first  # -first ... length - 1 - last
    return places - steps[:, None, None]


def paste(images: Tensor, masks: Tensor, places: Tensor) -> Tensor:
    """Put the foreground of each image where it has moved to, over the image.

    Args:
        images: (B, C, H, W).
        masks: (B, H, W) bool.
        places: (B, H, W, 2) of `sources`.

    Returns:
        (B, C, H, W) like images, channels last.
    """
    size = places.new_tensor(masks.shape[1:])
    grid = ((2 * places + 1) / size - 1).flip(-1).to(images.dtype)  # columns first, the frame is [-1, 1]
    # Behind the frame's edge the picture goes on as at the edge, so that no black is blended in; the mask ends there.
    picture = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    masks = masks[:, None].to(images.dtype)
    covered = F.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    pasted = torch.where(covered > 0, picture, images)
    return pasted.contiguous(memory_format=torch.channels_last)
