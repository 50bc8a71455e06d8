"""OFA's fusion: a tail image's own locations joined with the class-generic ones of an image it is confused with.

    specific(c) = {F_c(p) : M_c(p) > tau_s},   generic(u) = {F_u(p) : M_u(p) < tau_g},   zero vectors left out
    f = (sum of n_s draws from specific(c) + sum of L - n_s draws from generic(u)) / L,   n_s = round(gamma L)

F are the last maps (L = H W locations), M the class activation map of an image's own class, stretched to [0, 1], gamma
~ U(0, 1). Since mean-pool follows, where a vector lies has no say, and the fused map is pooled at once.

Source    Chu et al., ECCV 2020, arXiv:2008.03673, Algorithm 1
Differs   thresholds are met (>=, <=) instead of passed, so that min and max belong to one set each at any threshold;
          n_s is kept in [1, L - 1], a fused sample then always has both parts
Limits    both images the same and nothing masked: in expectation, the mean over the non-zero locations
"""

import torch
from torch import Tensor

from longtail.models.activation import activation_maps, min_max


def class_masks(maps: Tensor, weight: Tensor, labels: Tensor, tau_s: float, tau_g: float) -> tuple[Tensor, Tensor]:
    """Tell which locations are specific to the image's class and which are generic.

    Args:
        maps: (B, D, H, W).
        weight: (K, D) of the stage-one classifier.
        labels: (B,) int64, the images' own classes.

    Returns:
        Two (B, L) bool; all true where a map is flat and tells nothing.
    """
    scaled, flat = min_max(activation_maps(maps, weight, labels))
    scaled, flat = scaled.flatten(1), flat[:, None]
    return specific(scaled, tau_s) | flat, generic(scaled, tau_g) | flat


def specific(cams: Tensor, tau_s: float) -> Tensor:
    """Tell where CAMs in [0, 1] show the class."""
    return cams >= tau_s


def generic(cams: Tensor, tau_g: float) -> Tensor:
    """Tell where CAMs in [0, 1] do not show the class."""
    return cams <= tau_g


def drawable(maps: Tensor, mask: Tensor) -> Tensor:
    """Drop locations whose vector is zero; then, where nothing is left, take the non-zero ones, then all.

    Args:
        maps: (B, D, H, W).
        mask: (B, L) bool.

    Returns:
        (B, L) bool, at least one true in each row.
    """
    filled = is_filled(maps)
    chosen = mask & filled
    chosen = torch.where(chosen.any(1, keepdim=True), chosen, filled)
    return torch.where(chosen.any(1, keepdim=True), chosen, torch.ones_like(mask))


def is_filled(maps: Tensor) -> Tensor:
    """Tell which locations of maps (B, D, H, W) hold more than zeros, (B, L) bool."""
    return (maps != 0).any(1).flatten(1)


def specific_share(shares: Tensor, locations: int) -> Tensor:
    """Return how many of L draws are class-specific, (P,) int64 in [1, L - 1], for gamma (P,) in [0, 1]."""
    return (shares * locations).round().long().clamp(1, locations - 1)


def draw_locations(chosen: Tensor, uniforms: Tensor) -> Tensor:
    """Draw locations with replacement among the chosen ones.

    Args:
        chosen: (P, L) bool, at least one true in each row.
        uniforms: (P, L) in [0, 1), one per draw.

    Returns:
        (P, L) int64.
    """
    order = chosen.int().argsort(dim=1, descending=True, stable=True)  # the chosen ones first, in their order
    count = chosen.sum(1, keepdim=True)
    place = (uniforms * count).long().minimum(count - 1)  # rounding may reach the count
    return order.gather(1, place)


def fuse(maps: Tensor, rows: Tensor, partners: Tensor, masks: tuple[Tensor, Tensor], draws: Tensor) -> Tensor:
    """Return the pooled fused features (P, D) float32 of P pairs.

    Args:
        maps: (B, D, H, W) of a batch of images.
        rows, partners: (P,) int64, the tail image and the confusing image of each pair in the batch.
        masks: specific and generic locations of all images, (B, L) bool each.
        draws: (P, 1 + 2 L) in [0, 1): gamma, then one per draw of each kind.
    """
    locations = maps.shape[2] * maps.shape[3]
    own = draw_locations(drawable(maps, masks[0])[rows], draws[:, 1 : 1 + locations])
    other = draw_locations(drawable(maps, masks[1])[partners], draws[:, 1 + locations :])
    wanted = specific_share(draws[:, 0], locations)[:, None]
    is_own = torch.arange(locations, device=maps.device) < wanted
    return (_sums(maps[rows], own, is_own) + _sums(maps[partners], other, ~is_own)) / locations


def _sums(maps: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Sum maps (P, D, H, W) over the places (P, L) that are counted, (P, D) float32."""
    times = torch.zeros_like(places, dtype=torch.float32).scatter_add_(1, places, counted.float())
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("pdl,pl->pd", maps.flatten(2).float(), times)


def confusing_classes(confusion: Tensor, asked: Tensor, pool: Tensor, wanted: int) -> Tensor:
    """Return the classes that the tail classes are most confused with, most first; ties: the lower label.

    Args:
        confusion: (K, K), row c the mean softmax output on images of class c.
        asked: (K,) bool, the tail classes: head classes, who have one fewer in a pool of heads, have no say in F.
        pool: (K,) bool, classes that may be chosen; never the class itself.
        wanted: N_f.

    Returns:
        (K, F) int64, F = N_f, or as many as every class has that is asked for. Rows of the others mean nothing.
    """
    own = torch.eye(len(confusion), dtype=torch.bool, device=confusion.device)
    scores = torch.where(own | ~pool, -torch.inf, confusion)
    most = min(wanted, int((~scores.isinf()).sum(1)[asked].min()))
    return scores.argsort(dim=1, descending=True, stable=True)[:, :most]
