"""Rare-class sample generator (RSG): in the last epochs, tail samples gain what varies among head samples.

    L = L_cls + lambda_cesc CESC + lambda_mv MV                                                                 (eq. 7)
    L_cls: of the batch, and from `start` on of x_new = T(u_head) + x_tail as well                              (eq. 4)

x are the maps between two stages of the network, u = x - up(C) the displacement of a sample from the closest centre of
its class, T a 3x3 convolution: what varies in a head class is carried over to a tail class.

    g = softmax(A_y ave(x) + b_y)                     how much x belongs to each centre C_i of its class        (eq. 1)
    u = x - up(C_i), i = argmax g                                                                               (eq. 3)
    CESC = <sum_i g_i sum_dhw (x - up(C_i))^2> + <-log p(same class, or different)>                             (eq. 5)
    MV = <sum_hw |cos(T(u_head), u_tail) - 1| + sum_hw ||T(u_head)| - |u_head|| - log p(different)>             (eq. 6)

Centre estimation with sample contrast (CESC) trains the centres at all times, and until `start` the contrastive module,
which says whether two maps show one class (eq. 2). The centres are anchors: what is left of a sample without its centre
is pose and light rather than class. The maximised vector loss (MV) turns displacements of head samples into the
direction of the tail sample's own, keeps their length, and rids them of the head class. MV and L_cls train T; L_cls
alone trains the network, and through real samples only the stages before the generator (Algorithm 1). Centres,
contrastive module and T belong to the step and are gone after training.

Source    Wang et al., CVPR 2021, arXiv:2106.09859, section 3 and Algorithm 1; initial values from its released code
Differs   where a batch has more tails than heads, each head meets max(floor(beta n_t / n_h), 1) tails, as in the
          released code: the paper counts pairs for other batches. From `start` on CESC lacks the term of the
          contrastive module, which no longer learns from it. The square in CESC is expanded, |x|^2 - 2 <sum_i g_i C_i,
          sum_hw x> + H W sum_i g_i |C_i|^2: the same number without k differences per sample. The cosine with a vector
          shorter than 1e-8 is 0 and has no gradient. From the released code: pairs are drawn ("randomly picking"), not
          taken in the order of the batch; the contrastive module's last layer starts with N(0, 1 / width) where its
          first kernel is 3 (with the N(0, 1) of the code, whose kernel is 1, it diverged in some runs of the recipe);
          in the `reference` layout sum_d |a_d b_d - 1| over unit vectors is D - cos, and its constant is left out
Limits    start = 1: plain learning, with centres that take no part; T = identity: direct addition; one centre: g = 1,
          and C is drawn to the mean of the class's maps
"""

from collections.abc import Collection
from math import ceil
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from longtail.learners.base import LearnerSpec
from longtail.models.network import Network
from longtail.seeding import seeded
from longtail.spec import InputError
from longtail.training.loop import Step
from longtail.training.objective import Objective

WIDTH = 256  # channels of the contrastive module, "throughout the paper"
SHORTEST = 1e-8  # below, a vector has no direction: behind a ReLU many are exactly zero
MVTerm = Literal["direction", "length", "contrast"]
Form = Literal["paper", "reference"]


class RSG(LearnerSpec):
    """Learning from a batch and from samples that a generator adds to its tail classes.

    Args:
        centres: K, per class; 15 in the paper.
        head_share: alpha, the share of classes, from the most frequent on, that lend; 0.2 long-tailed, 0.5 step.
        transfer_strength: beta in (0, 1], the share of a batch's head samples that lend; 1 long-tailed, 0.01 step.
        lambda_cesc, lambda_mv: of the losses; 0.1 and 0.01 in the paper.
        start: progress from which samples are generated; 0.8 is epoch 160 of 200, where the learning rate drops.
        position: the generator works on the maps of stages[:position]; -1 is before the last stage, null behind it.
        cm_kernel: of the contrastive module's first convolution; 3 in the paper, 1 in the released code.
        cm_pair: what that module compares in MV; `paper`: T(u) and u, `reference` (released code): x_head and T(u).
        mv_layout: what a vector of MV is; `paper`: the channels at a location, `reference` (released code): as many
            numbers in a row of one channel.
        mv_terms: of MV, any of direction, length and contrast (table 3).
        generation: `transform` for T(u) + x_tail; without T and MV, `direct` for u + x_tail, `centre` for
            u + up(C_tail) (table 3).
    """

    name: Literal["rsg"] = "rsg"
    centres: int = Field(ge=1)
    head_share: float = Field(gt=0, lt=1)
    transfer_strength: float = Field(gt=0, le=1)
    lambda_cesc: float = Field(ge=0)
    lambda_mv: float = Field(ge=0)
    start: float = Field(ge=0, le=1)
    position: int | None
    cm_kernel: Literal[1, 3]
    cm_pair: Form
    mv_layout: Form
    mv_terms: tuple[MVTerm, ...]
    generation: Literal["transform", "direct", "centre"]

    @field_validator("position")
    @classmethod
    def _is_behind_a_stage(cls, position: int | None) -> int | None:
        if position == 0:
            raise ValueError("0 would generate images; write -1 for before the last stage, or null for behind it")
        return position

    @model_validator(mode="after")
    def _terms_have_something_to_train(self) -> "RSG":
        if len(set(self.mv_terms)) < len(self.mv_terms):
            raise ValueError(f"mv_terms lists a term twice: {', '.join(self.mv_terms)}. Write each once.")
        if self.generation != "transform" and self.mv_terms:
            raise ValueError(
                f"generation {self.generation} has no transformation that MV could train; write mv_terms: []"
            )
        return self

    @property
    def varies_from(self) -> int | None:
        """Return the first stage behind the generator."""
        return self.position

    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains.

        Raises:
            InputError: if the network has no such position, or all classes or none are head classes.
        """
        _check_position(self.position, len(network.stages))
        _check_share(self.head_share, len(objective.class_counts))
        return RSGStep(network, objective, self)


class RSGStep(Step):
    """L_cls + lambda_cesc CESC + lambda_mv MV of a batch; owns the generator."""

    is_head: Tensor

    def __init__(self, network: Network, objective: Objective, spec: RSG) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec
        channels, _, _ = network.map_shape(spec.position)
        # Named by the network's own numbers, which name the training seed.
        with seeded(0, "rsg", network.classifier.weight.detach().cpu().numpy().tobytes().hex()):
            self.rare = RareSampleGenerator(
                channels,
                len(objective.class_counts),
                centres=spec.centres,
                cm_kernel=spec.cm_kernel,
                transforms=spec.generation == "transform",
            )
        self.register_buffer("is_head", head_classes(objective.class_counts, spec.head_share), persistent=False)

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,); draws one permutation."""
        images, labels = batch
        maps = self.network.maps(images, stop=self.spec.position)
        known = maps.detach()  # the generator's losses never reach the network
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        cesc = self.rare.centres.loss(known, labels)
        mv = torch.zeros((), device=maps.device)
        if float(progress) < self.spec.start:
            cesc = cesc + self.rare.contrastive.loss(known, labels, order)
        else:
            more, rows, mv = self.generate(known, labels, order)
            maps = torch.cat([maps, more]).contiguous(memory_format=torch.channels_last)
            labels = torch.cat([labels, labels[rows]])
        loss: Tensor = self.objective(self.classify(maps), labels, progress)
        return loss + self.spec.lambda_cesc * cesc + self.spec.lambda_mv * mv

    def generate(self, maps: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make new samples of the tail classes in a batch.

        Args:
            maps: (B, D, H, W) without gradients.
            labels: (B,).
            order: (B,) a random permutation, from which heads and tails are taken.

        Returns:
            Maps (S, D, H, W) of the new samples; rows (S,) of the tail samples they come from; MV. Without heads or
            without tails S is 0.
        """
        is_head = self.is_head[labels[order]]
        heads, tails = pairs(order[is_head], order[~is_head], self.spec.transfer_strength)
        if len(tails) == 0:
            return maps[:0], tails, torch.zeros((), device=maps.device)
        transfer = self.rare.transfer(maps, labels, heads, tails)
        anchors = transfer.centres if self.spec.generation == "centre" else transfer.tails
        mv = self.rare.mv_loss(transfer, self.spec.mv_terms, self.spec.mv_layout, self.spec.cm_pair)
        return (anchors + transfer.moved).to(maps.dtype), tails, mv

    def classify(self, maps: Tensor) -> Tensor:
        """Return logits (B, K) for maps (B, D, H, W) at the generator's place."""
        start = len(self.network.stages) if self.spec.position is None else self.spec.position
        logits: Tensor = self.network.classifier(self.network.maps(maps, start=start).mean((2, 3)))
        return logits


def _check_position(position: int | None, stages: int) -> None:
    if position is not None and not 0 < abs(position) < stages:
        places = f"1 to {stages - 1}, -1 to -{stages - 1}, or " if stages > 1 else ""
        raise InputError(
            f"learner.position is {position}, but the network has {stages} stage{'s' * (stages > 1)}. "
            f"Choose {places}null for behind the last."
        )


def _check_share(share: float, num_classes: int) -> None:
    heads = floor(share * num_classes)
    if heads == 0:
        raise InputError(
            f"learner.head_share is {share:g}, which of {num_classes} classes makes none a head class, so that nothing "
            f"could be generated. Write at least {ceil(100 / num_classes) / 100:g}, for 2 or more classes."
        )


class Centres(nn.Module):
    """The centre estimation module and the centres.

    Args:
        num_classes: K.
        channels: D of the maps.
        centres: k per class.
    """

    def __init__(self, num_classes: int, channels: int, centres: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(num_classes, channels, centres)
        )  # the only difference between the centres at first
        self.bias = nn.Parameter(torch.ones(num_classes, centres))
        self.centres = nn.Parameter(torch.zeros(num_classes, centres, channels))

    def assign(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return g, (B, k) summing to 1, for maps (B, D, H, W) and labels (B,) (eq. 1)."""
        with torch.autocast(maps.device.type, enabled=False):
            pooled = widen(maps).mean((2, 3))
            logits = torch.einsum("bd,bdk->bk", pooled, self.weight[labels]) + self.bias[labels]
            return logits.softmax(1)

    def loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the first term of CESC (eq. 5), a mean over the samples of maps (B, D, H, W) with labels (B,)."""
        with torch.autocast(maps.device.type, enabled=False):  # D H W squares add up: in float32
            maps, shares, centres = widen(maps), self.assign(maps, labels), self.centres[labels]
            own = maps.square().sum((1, 2, 3))
            across = (torch.einsum("bk,bkd->bd", shares, centres) * maps.sum((2, 3))).sum(1)
            theirs = maps[0, 0].numel() * (shares * centres.square().sum(2)).sum(1)
            return (own - 2 * across + theirs).mean()

    @torch.no_grad()
    def closest(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return each sample's most probable centre, (B, D, 1, 1): broadcasting is up(), which repeats it (eq. 3)."""
        return self.centres[labels, self.assign(maps, labels).argmax(1)][:, :, None, None]


class ContrastiveModule(nn.Module):
    """Two logits for a pair of maps: of different classes, and of the same one (eq. 2).

    Args:
        channels: D of each.
        kernel: of the first convolution; 3 in the paper, 1 in the released code.
        width: channels of both convolutions.
    """

    def __init__(self, channels: int, kernel: int, width: int = WIDTH) -> None:
        super().__init__()
        self.first = initialised(nn.Conv2d(2 * channels, width, kernel, padding=kernel // 2))
        self.second = initialised(nn.Conv2d(width, width, 3, padding=1))
        self.verdict = nn.Linear(width, 2)
        # The released code draws N(0, 1), and the paper says nothing. Behind a 3x3 kernel such logits diverged in one
        # of six seeds within an epoch of the published recipe; these did not, but are not immune (constant lr 0.1).
        nn.init.normal_(self.verdict.weight, std=1.0 if kernel == 1 else width**-0.5)
        nn.init.zeros_(self.verdict.bias)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return logits (P, 2), of different and of same, for P pairs of maps (P, D, H, W)."""
        maps = self.second(self.first(torch.cat([one, other], 1)).relu())
        return widen(self.verdict(maps.mean((2, 3))))

    def frozen(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the same logits, which send gradients to the maps and none to this module's weights."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        logits: Tensor = functional_call(self, weights, (one, other))
        return logits

    def loss(self, maps: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Return the second term of CESC (eq. 5), a mean over B // 2 pairs; 0 for a batch of one.

        Args:
            maps: (B, D, H, W).
            labels: (B,).
            order: (B,) a random permutation: its first half meets its second half, and an odd one stays alone.
        """
        half = len(order) // 2
        if half == 0:
            return torch.zeros((), device=maps.device)
        one, other = order[:half], order[half : 2 * half]
        return F.cross_entropy(self(maps[one], maps[other]), (labels[one] == labels[other]).long())


def initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    """Draw Kaiming-normal weights, set the bias to zero."""
    assert convolution.bias is not None
    nn.init.kaiming_normal_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


def widen(maps: Tensor) -> Tensor:
    """Return maps in float32, or as they are where they are wider."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


class Transfer(NamedTuple):
    """S pairs of a head and a tail sample, (S, D, H, W) each, free of gradients but for `moved`.

    Args:
        heads, tails: maps of the samples.
        displacements: u of the heads.
        moved: T(u).
        centres: up(C) of the tails, (S, D, 1, 1).
    """

    heads: Tensor
    displacements: Tensor
    moved: Tensor
    tails: Tensor
    centres: Tensor


class RareSampleGenerator(nn.Module):
    """Centres, contrastive module and T for the maps of one place in a network.

    Args:
        channels: D of the maps.
        num_classes: K.
        centres: per class.
        cm_kernel: of the contrastive module's first convolution.
        transforms: whether there is a T; displacements stay as they are otherwise.
    """

    def __init__(self, channels: int, num_classes: int, *, centres: int, cm_kernel: int, transforms: bool) -> None:
        super().__init__()
        self.centres = Centres(num_classes, channels, centres)
        self.contrastive = ContrastiveModule(channels, cm_kernel)
        convolution = initialised(nn.Conv2d(channels, channels, 3, padding=1))
        self.transformation = convolution if transforms else nn.Identity()

    def transfer(self, maps: Tensor, labels: Tensor, heads: Tensor, tails: Tensor) -> Transfer:
        """Carry displacements from heads to tails (eq. 3, and T of eq. 4).

        Args:
            maps: (B, D, H, W) without gradients.
            labels: (B,).
            heads, tails: (S,) rows, the pairs.
        """
        displacements = widen(maps[heads]) - self.centres.closest(maps[heads], labels[heads])
        centres = self.centres.closest(maps[tails], labels[tails])
        return Transfer(maps[heads], displacements, self.transformation(displacements), maps[tails], centres)

    def mv_loss(self, transfer: Transfer, terms: Collection[MVTerm], layout: Form, cm_pair: Form) -> Tensor:
        """Return MV (eq. 6), a mean over pairs, without the terms that are not listed.

        Args:
            layout: see `vectors`.
            cm_pair: see `contrast_loss`.
        """
        loss = torch.zeros((), device=transfer.moved.device)
        if "direction" in terms:
            wanted = widen(transfer.tails) - transfer.centres
            loss = loss + direction_loss(transfer.moved, wanted, layout).mean()
        if "length" in terms:
            loss = loss + length_loss(transfer.moved, transfer.displacements, layout).mean()
        if "contrast" in terms:
            loss = loss + contrast_loss(self.contrastive, transfer, cm_pair).mean()
        return loss


def direction_loss(moved: Tensor, wanted: Tensor, layout: Form) -> Tensor:
    """Return sum_hw |cos(moved, wanted) - 1| (eq. 6, first term), (S,), for two tensors (S, D, H, W)."""
    one, other = vectors(moved, layout), vectors(wanted, layout)
    squares = one.square().sum(2), other.square().sum(2)
    directed = (squares[0] > SHORTEST**2) & (squares[1] > SHORTEST**2)
    # Square roots of ones where there is no direction: a gradient at 0 would be NaN even when it is multiplied by 0.
    lengths = torch.where(directed, squares[0], 1.0).sqrt() * torch.where(directed, squares[1], 1.0).sqrt()
    cosines = torch.where(directed, (one * other).sum(2) / lengths, 0.0)
    return (cosines - 1).abs().sum(1)


def length_loss(moved: Tensor, original: Tensor, layout: Form) -> Tensor:
    """Return sum_hw ||moved| - |original|| (eq. 6, second term), (S,), for two tensors (S, D, H, W)."""
    lengths: list[Tensor] = [torch.linalg.vector_norm(vectors(maps, layout), dim=2) for maps in (moved, original)]
    return (lengths[0] - lengths[1]).abs().sum(1)


def contrast_loss(module: ContrastiveModule, transfer: Transfer, cm_pair: Form) -> Tensor:
    """Return -log p(different) by the frozen contrastive module (eq. 6, third term), (S,).

    Args:
        cm_pair: `paper` for T(u) and u; `reference` for the head sample x and T(u), as the released code has it.
    """
    paper = (transfer.moved, transfer.displacements)
    logits = module.frozen(*(paper if cm_pair == "paper" else (transfer.heads, transfer.moved)))
    return -logits.log_softmax(1)[:, 0]


def vectors(maps: Tensor, layout: Form) -> Tensor:
    """Cut maps (S, D, H, W) into H W vectors of D numbers, (S, H W, D) in float32 or wider.

    Args:
        layout: `paper` for the channels at each location; `reference` for D numbers that follow each other in a channel
            and then the next, as the released code reshapes its tensors.
    """
    ordered = maps.permute(0, 2, 3, 1) if layout == "paper" else maps
    return widen(ordered).reshape(len(maps), -1, maps.shape[1])


def head_classes(class_counts: Tensor, share: float) -> Tensor:
    """Return (K,) bool, true for the floor(share K) classes with most images; of equal classes the lower label."""
    order = class_counts.argsort(descending=True, stable=True)
    mask = torch.zeros_like(class_counts, dtype=torch.bool)
    mask[order[: floor(share * len(class_counts))]] = True
    return mask


def pairs(heads: Tensor, tails: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Pair each of the fewer kind with max(floor(strength * more / fewer), 1) of the other kind.

    Args:
        heads, tails: (n_h,) and (n_t,) rows of a batch, in random order; either may be empty.
        strength: beta in (0, 1].

    Returns:
        Rows of the paired heads and tails, (S,) each; S = max(floor(beta n_h / n_t), 1) n_t for n_h >= n_t.
    """
    fewer, more = (tails, heads) if len(heads) >= len(tails) else (heads, tails)
    if len(fewer) == 0:
        return fewer, fewer
    times = max(floor(strength * len(more) / len(fewer)), 1)
    chosen, repeated = more[: times * len(fewer)], fewer.repeat(times)
    return (chosen, repeated) if len(heads) >= len(tails) else (repeated, chosen)


def floor(product: float) -> int:
    """Round down a product of decimal numbers: 0.29 * 100 is 29, which binary fractions make a little less."""
    return int(product + 1e-9)
