"""The rare-class sample generator: what varies in a head class, carried over to a tail class.

    x_new = T(u_head) + x_tail                        T: a 3x3 convolution; u = x - up(C), see centre_estimation (eq. 4)
    MV = <sum_hw |cos(T(u_head), u_tail) - 1| + sum_hw ||T(u_head)| - |u_head|| - log p(different)>             (eq. 6)

The maximised vector loss (MV) turns displacements of head samples into the direction of the tail sample's own, keeps
their length, and rids them of the head class: p is the contrastive module's, of T(u_head) and the head sample.

Source    RSG, Wang et al., CVPR 2021, arXiv:2106.09859, section 3; initial values from its released code
Differs   the cosine with a vector shorter than 1e-8 is 0 and has no gradient. `reference` layout: the released code's
          sum_d |a_d b_d - 1| over unit vectors is D - cos; the constant D - 1 is left out
Limits    T = identity: direct addition
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from longtail.learners.centre_estimation import Centres, ContrastiveModule, initialised, widen

SHORTEST = 1e-8  # below, a vector has no direction: behind a ReLU many are exactly zero

MVTerm = Literal["direction", "length", "contrast"]
Form = Literal["paper", "reference"]


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
