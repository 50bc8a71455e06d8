"""Major-to-minor translation (M2m): images of frequent classes, changed until a trained network g sees a rare class.

    x* = argmin_x CE(g(x), y) + lam f(x)_y0,   from x0 of a class y0 with n_y0 > n_y, plus noise

A class-balanced batch; each image of class y gives way to an x* with probability 1 - n_y / n_max. x0 is drawn from the
same batch with weights 1 - beta^max(n_y0 - n_y, 0); x* takes `steps` steps along the unit gradient of its image, cut to
[0, 1], with f and g in eval mode. It is accepted if g's probability of y reaches gamma, and then with probability
1 - beta^max(n_y0 - n_y, 0); else the over-sampled original stays. f then learns the batch as it learns any other.

Source    Kim et al., CVPR 2020, arXiv:2004.00431, from memory; all steps and numbers as its released code. CIFAR-10-LT
          at ratio 100: lam 0.5, beta 0.999, gamma 0.9, noise 0.5, 10 steps of 0.1; g is the network of plain learning.
          For CIFAR-100 the code names none; grid from memory: beta 0.9 to 0.999, lam 0.01 to 0.5, gamma 0.9 or 0.99
Differs   from the code: the noise of each image has L2 norm `noise` at most (the code scales each channel of the whole
          batch to it: almost none); n_max is the largest count, not that of class 0. Every place of a batch is
          translated and those not wanted are thrown away: one shape for the device, the same result
Limits    start = 1: plain learning; beta = 1, equal counts or gamma > 1: class-balanced re-sampling from `start` on
"""

from copy import deepcopy
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from longtail.learners.base import LearnerSpec
from longtail.models.network import Network
from longtail.training.inference import confident, evaluating
from longtail.training.loop import Step
from longtail.training.objective import Objective


class M2m(LearnerSpec):
    """Plain learning at first, then class-balanced batches with translated images.

    Args:
        start: progress at which the second sampler and translation take over; 0.8 is epoch 160 of 200.
        beta: in [0, 1]; the higher, the more images y0 must have above y to be translated. 1 is none.
        lam: weight of f's logit of y0, which x* shall lose.
        gamma: g's probability of y from which x* is accepted; above 1 never.
        noise: L2 norm of what is added to x0, in units of [0, 1] pixels.
        steps: of the translation.
        step_size: L2 norm of each.
    """

    batches: ClassVar[int] = 2
    needs_start: ClassVar[bool] = True
    trains_afresh: ClassVar[bool] = True

    name: Literal["m2m"] = "m2m"
    start: float = Field(ge=0, le=1)
    beta: float = Field(ge=0, le=1)
    lam: float = Field(ge=0)
    gamma: float = Field(ge=0)
    noise: float = Field(ge=0)
    steps: int = Field(ge=0)
    step_size: float = Field(ge=0)

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains; the network's present weights become g's."""
        return M2mStep(network, objective, self)


class M2mStep(Step):
    """The objective of a uniform batch, later of a balanced one with translated images; owns g, which stays frozen."""

    def __init__(self, network: Network, objective: Objective, spec: M2m) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec
        self.guide = deepcopy(network).freeze()

    def train(self, mode: bool = True) -> Self:
        """Put f in train or eval mode; g stays in eval mode."""
        super().train(mode)
        self.guide.eval()
        return self

    def forward(self, uniform: Any, balanced: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for two batches of images (B, C, H, W) and labels (B,).

        Draws nothing before `start`; then which places to fill, the seeds, the noise and the acceptance.
        """
        images, labels = uniform
        if float(progress) >= self.spec.start:
            images, labels = self.rebalanced(balanced, generator), balanced.labels
        loss: Tensor = self.objective(self.network(images), labels, progress)
        return loss

    def rebalanced(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the images (B, C, H, W) of a balanced batch, some of them translations of others; labels stay."""
        images, labels = batch
        counts = self.objective.class_counts.double()
        wanted = uniform_draws(labels, generator) >= counts[labels] / counts.max()
        seeds, chances = draw_seeds(counts[labels], self.spec.beta, generator)
        noise = draw_noise(images, self.spec.noise, generator)
        made, sure = self.translate(images[seeds] + noise, labels[seeds], labels)
        accepted = wanted & sure & (uniform_draws(labels, generator) < chances)
        kept = torch.where(accepted[:, None, None, None], made, images)
        return kept.contiguous(memory_format=torch.channels_last)

    def translate(self, images: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Change images of classes `sources` until g sees `targets`; f, g and their statistics stay as they are.

        Args:
            images: (B, C, H, W), the seeds with their noise.
            sources, targets: (B,) int64.

        Returns:
            (B, C, H, W) in [0, 1]; (B,) bool, whether g's probability of the target reaches gamma.
        """
        images = images.clamp(0, 1).contiguous(memory_format=torch.channels_last)
        # Eager: compiled stages are for training mode, and would compute the gradients of all weights too.
        with evaluating(self.network), torch.compiler.set_stance("force_eager"):
            for _ in range(self.spec.steps):
                images = (images - self.spec.step_size * unit(self.slope(images, sources, targets))).clamp(0, 1)
            with torch.no_grad():
                return images, confident(self.guide(images), targets, self.spec.gamma)

    def slope(self, images: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of CE(g(x), y) + lam f(x)_y0 with respect to each image, (B, C, H, W)."""
        images = images.detach().requires_grad_()
        wide = torch.promote_types(images.dtype, torch.float32)
        seen = F.cross_entropy(self.guide(images).to(wide), targets, reduction="sum")
        left = self.network(images).to(wide).gather(1, sources[:, None]).sum()
        (gradient,) = torch.autograd.grad(seen + self.spec.lam * left, images)
        return gradient


def uniform_draws(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one number in [0, 1) per label, (B,) float64 on their device."""
    return torch.rand(len(labels), generator=generator, dtype=torch.float64).to(labels.device, non_blocking=True)


def draw_seeds(counts: Tensor, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw for each place of a batch another to start from, by how many more images the class of that one has.

    Args:
        counts: (B,) float64, training images of each place's class.
        beta: in [0, 1].

    Returns:
        (B,) int64, the seed of each place; (B,) float64, its weight 1 - beta^max(n_y0 - n_y, 0), which is 0 where no
        class of the batch has more images.
    """
    weights = 1 - beta ** (counts[None, :] - counts[:, None]).clamp(min=0)
    uniform = torch.rand(weights.shape, generator=generator, dtype=torch.float64)
    # A race of exponential clocks with these rates: the first to ring is drawn with its share of the rates.
    race = weights * (-1 / uniform.log()).to(counts.device, non_blocking=True)
    seeds = race.argmax(1)
    return seeds, weights.gather(1, seeds[:, None])[:, 0]


def draw_noise(images: Tensor, norm: float, generator: torch.Generator) -> Tensor:
    """Draw uniform noise like images (B, C, H, W), each image's of L2 norm `norm` at most."""
    noise = torch.rand(images.shape, generator=generator, dtype=images.dtype) - 0.5
    lengths = noise.flatten(1).norm(dim=1).clamp(max=norm)
    scaled: Tensor = lengths[:, None, None, None] * unit(noise)
    return scaled.to(images.device, non_blocking=True)


def unit(rows: Tensor) -> Tensor:
    """Scale each of (B, C, H, W) to L2 norm 1; one that vanishes stays 0."""
    lengths: Tensor = rows.flatten(1).norm(dim=1)[:, None, None, None]
    return rows / (lengths + 1e-10)
