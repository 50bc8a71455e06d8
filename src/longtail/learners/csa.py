"""Context-shift augmentation (CSA): tail images on the backgrounds of head images, seen by a second classifier.

    L = L_u + L_b,   L_u = loss(f_u(phi(x)), y),   L_b = loss(f_b(phi(x')), y')
    x' <- l M x_q + (1 - l M) x',   l ~ U(0, 1) per batch,   M = (1 - CAM_y(x_q))^2

(x, y) are drawn uniformly, (x', y') balanced over classes; contexts (x_q, M) come from a bank of images x that f_u
is sure of: p(y | x) >= threshold. CAM is the activation map of x_q's class, ReLU, stretched to [0, 1], bicubic to image
size. Re-sampling alone lets a tail class learn the few backgrounds that it has. f_u is the
network's own classifier, which is evaluated; f_b belongs to the step and is gone after training.

Source    Shi et al., NeurIPS 2023, arXiv:2310.18236, Algorithm 1
Differs   from Algorithm 1, as the released code: the bank is emptied at each epoch (`emptied: once` is Algorithm 1);
          L_b waits for `start` and for as many contexts as the batch has images; p and CAM are taken in eval mode; the
          balanced data is drawn anew each epoch. From both: a CAM that is flat or no number gives no context, the
          row's loss is that of both branches (the code: always cross entropy on the balanced one), and a batch above
          the volume takes the full bank repeatedly. CAM is taken in closed form, the code's Grad-CAM by gradients
Limits    start = 1: plain learning; mixing = 0, or bank = false: the balanced branch sees its images as they are
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.learners.base import LearnerSpec
from longtail.learners.mixing import blend, draw_partners, draw_share, mixed_objective
from longtail.models.activation import activation_maps, min_max
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network
from longtail.seeding import seeded
from longtail.spec import Spec
from longtail.training.inference import confident, evaluating
from longtail.training.loop import Step
from longtail.training.objective import Objective


class UniformMixup(Spec):
    """Mixup of the uniform batch, after its contexts were taken ("CSA + mixup").

    Args:
        alpha: l ~ Beta(alpha, alpha) per batch; 1 for CIFAR, 0.2 for ImageNet-LT.
        until: progress at which it ends; 0.985 is the last 3 of 200 epochs.
    """

    alpha: float = Field(gt=0)
    until: float = Field(ge=0, le=1)


class CSA(LearnerSpec):
    """Uniform and balanced learning on one backbone, the balanced images in the contexts of others.

    Args:
        threshold: delta, the probability of its class from which an image lends its context; 0.8 in the paper.
        volume: V, contexts in the bank; the batch size in the paper.
        start: progress from which there is a balanced branch; 0.05 is epoch 10 of 200. Plain learning before.
        emptied: the bank, at each epoch's start (released code) or once at the training's (Algorithm 1).
        bank: false leaves the balanced images as they are (table 4, "w/o Q").
        mask: false mixes whole images, M = 1.
        masks_from: the classifier whose CAM makes the masks; the threshold is always on the uniform one.
        mixing: `random` for l ~ U(0, 1), or a fixed l in [0, 1].
        mixup: of the uniform branch, or false.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = "linear"
    batches: ClassVar[int] = 2

    name: Literal["csa"] = "csa"
    threshold: float = Field(ge=0, le=1)
    volume: int = Field(ge=1)
    start: float = Field(ge=0, le=1)
    emptied: Literal["each_epoch", "once"]
    bank: bool
    mask: bool
    masks_from: Literal["uniform", "balanced"]
    mixing: Literal["random"] | float
    mixup: UniformMixup | Literal[False]

    @field_validator("mixing")
    @classmethod
    def _is_a_share(cls, mixing: str | float) -> str | float:
        if isinstance(mixing, float) and not 0 <= mixing <= 1:
            raise ValueError(f"{mixing:g} is no share; write random, or a number in [0, 1]")
        return mixing

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains."""
        return CSAStep(network, objective, self)


class CSAStep(Step):
    """L_u + L_b of a uniform and a balanced batch; owns f_b and the bank."""

    seen: Tensor

    def __init__(self, network: Network, objective: Objective, spec: CSA) -> None:
        super().__init__()
        assert network.image_shape is not None
        self.network, self.objective, self.spec = network, objective, spec
        self.balanced = second_classifier(network.classifier.weight)
        self.bank = ContextBank(spec.volume, network.image_shape)
        self.register_buffer("seen", torch.tensor(-1.0, dtype=torch.float64))  # the progress of the last step

    def forward(self, uniform: Any, balanced: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for two batches of images (B, C, H, W) and labels (B,).

        Draws, in this order and each only where it is needed: contexts, l, mixup's l and pairs.
        """
        if float(progress) < self.spec.start:
            return self.uniform_loss(uniform, progress, generator)
        if self.spec.bank:
            self.renew(progress)
            self.collect(uniform)
        loss = self.balanced_loss(balanced, progress, generator)  # first, for BatchNorm's running statistics
        return self.uniform_loss(uniform, progress, generator) + loss

    def renew(self, progress: Tensor) -> None:
        """Empty the bank where an epoch starts."""
        if self.spec.emptied == "each_epoch" and bool(progress != self.seen):
            self.bank.empty()
        self.seen.copy_(progress)

    @torch.no_grad()
    def collect(self, batch: Any) -> None:
        """Push the images that f_u is sure of, with their background masks (lines 9 to 15)."""
        images, labels = batch
        with evaluating(self.network):
            maps = self.network.maps(images)
            logits = self.network.classifier(maps.mean((2, 3)))
        source = self.network.classifier if self.spec.masks_from == "uniform" else self.balanced
        masks, flat = background_masks(maps, source.weight, labels, images.shape[-2:])
        if not self.spec.mask:
            masks, flat = torch.ones_like(masks), torch.zeros_like(flat)
        keep = confident(logits, labels, self.spec.threshold) & usable(masks, flat)
        self.bank.push(images[keep], masks[keep])

    def balanced_loss(self, batch: Any, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return L_b (lines 17 to 28), 0 while there are too few contexts."""
        images, labels = batch
        if self.spec.bank:
            if len(self.bank) < min(len(images), self.spec.volume):
                return torch.zeros((), device=images.device)
            contexts, masks = self.bank.draw(len(images), generator)
            images = mix(images, contexts, masks, self.share(generator))
        loss: Tensor = self.objective(self.balanced(self.network.features(images)), labels, progress)
        return loss

    def share(self, generator: torch.Generator) -> float:
        """Return l, one number per batch (line 20)."""
        if isinstance(self.spec.mixing, float):
            return self.spec.mixing
        return float(torch.rand((), generator=generator, dtype=torch.float64))

    def uniform_loss(self, batch: Any, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return L_u (line 16), of mixed images where mixup is on."""
        images, labels = batch
        mixup = self.spec.mixup
        loss: Tensor
        if mixup is False or float(progress) >= mixup.until:
            loss = self.objective(self.network(images), labels, progress)
            return loss
        share = images.new_tensor(draw_share(mixup.alpha, generator))
        partners = draw_partners(labels, generator)
        logits = self.network(blend(images, images[partners], share))
        return mixed_objective(self.objective, logits, labels, labels[partners], share, progress)


def second_classifier(weight: Tensor) -> LinearClassifier:
    """Draw f_b as f_u was drawn, but other numbers: named by f_u's (K, D) own, which name the training seed."""
    num_classes, feature_dim = weight.shape
    with seeded(0, "csa", weight.detach().cpu().numpy().tobytes().hex()):
        return LinearClassifier(feature_dim, num_classes)


def mix(images: Tensor, contexts: Tensor, masks: Tensor, share: float) -> Tensor:
    """Return share M x_q + (1 - share M) x (line 22) for images and contexts (B, C, H, W), masks (B, 1, H, W)."""
    weights = share * masks
    mixed = weights * contexts + (1 - weights) * images
    return mixed.contiguous(memory_format=torch.channels_last)


def background_masks(maps: Tensor, weight: Tensor, labels: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Return how much of the background each pixel is, as the CAM of the image's class says.

    Args:
        maps: (B, D, H', W'), the network's last.
        weight: (K, D).
        labels: (B,) int64.
        size: (H, W) of the images.

    Returns:
        (B, 1, H, W) in [0, 1]; (B,) bool, whether the CAM is flat and shows nothing.
    """
    stretched, flat = min_max(evidence(activation_maps(maps, weight, labels)))
    return background(enlarge(stretched, size)), flat


def evidence(cams: Tensor) -> Tensor:
    """Keep the evidence for a class, drop the evidence against it."""
    return cams.relu()


def enlarge(cams: Tensor, size: torch.Size) -> Tensor:
    """Resize CAMs (B, H', W') in [0, 1] to (B, 1, H, W); bicubic overshoots, so what leaves [0, 1] is cut."""
    return F.interpolate(cams[:, None], size=tuple(size), mode="bicubic", align_corners=False).clamp(0, 1)


def background(attention: Tensor) -> Tensor:
    """Return M = (1 - CAM)^2."""
    return (1 - attention).square()


def usable(masks: Tensor, flat: Tensor) -> Tensor:
    """Return which masks (B, 1, H, W) show a background: one that is not flat, in finite numbers; (B,) bool."""
    return masks.isfinite().flatten(1).all(1) & ~flat


class ContextBank(nn.Module):
    """The last `volume` pushed images with their masks.

    Args:
        volume: V, how many contexts it holds.
        image_shape: (C, H, W).
    """

    images: Tensor
    masks: Tensor
    pushed: Tensor

    def __init__(self, volume: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.volume = volume
        self.register_buffer("images", torch.zeros(volume, *image_shape))
        self.register_buffer("masks", torch.zeros(volume, 1, *image_shape[1:]))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Return how many contexts there are to draw, in [0, V]."""
        return min(int(self.pushed), self.volume)

    def empty(self) -> None:
        """Drop all contexts."""
        self.pushed.zero_()

    @torch.no_grad()
    def push(self, images: Tensor, masks: Tensor) -> None:
        """Add contexts, which push out the oldest beyond the volume.

        Args:
            images: (B, C, H, W) in [0, 1]; B may be 0, or above V, when the last V stay.
            masks: (B, 1, H, W) in [0, 1].
        """
        images, masks = images[-self.volume :], masks[-self.volume :]
        slots = (self.pushed + torch.arange(len(images), device=images.device)) % self.volume
        self.images[slots] = images.to(self.images)
        self.masks[slots] = masks.to(self.masks)
        self.pushed += len(images)

    def draw(self, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw contexts without replacement, in the order of one permutation; beyond the bank's size it starts over.

        Args:
            wanted: B.

        Returns:
            Images (B, C, H, W) and masks (B, 1, H, W), of their own memory.
        """
        size = len(self)
        assert size > 0
        order = torch.randperm(size, generator=generator)  # 0 is the oldest context
        ages = order.repeat(-(-wanted // size))[:wanted].to(self.pushed.device)
        slots = (self.pushed - size + ages) % self.volume
        return self.images[slots], self.masks[slots]
