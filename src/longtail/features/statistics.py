"""Distribution calibration: class statistics, support sets and draws, without ever building a covariance matrix.

    mu    = (1 - beta) x_i + beta sum_j wbar_j mu_j                                      (GLAG eq. 8)
    Sigma = (1 - beta)^2 Sigma_y + beta^2 sum_j wbar_j Sigma_j + gamma                   (GLAG eq. 9)

Let R_k be the centred rows of class k. z R_k / sqrt(n_k - 1) with z ~ N(0, I) has covariance exactly Sigma_k, so

    x_new = mu + (1 - beta) e_y + beta sum_j sqrt(wbar_j) e_j + sqrt(gamma) g,   e_k ~ N(0, Sigma_k)

has exactly eq. 8 and 9, however few images a class has. A factor is never larger than the class's own features: n_k
rows, or D where n_k exceeds D (the triangle of its QR decomposition, which has the same Gram matrix).

Source    GLAG, arXiv:2203.00452, section 4.2; the lineage is Free Lunch, ICLR 2021, arXiv:2101.06395
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor


def rows_by_class(labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Return, for each of the K classes, the positions of its rows in ascending order."""
    counts = torch.bincount(labels, minlength=num_classes)
    return torch.split(labels.argsort(stable=True), counts.tolist())


@dataclass(frozen=True)
class ClassStatistics:
    """Mean and covariance of each class (GLAG eq. 5, 6), the covariance as a factor.

    Args:
        means: (K, D).
        factors: K tensors (min(n_k, D), D) with factor^T factor = Sigma_k; zeros for a class of one image.
        class_counts: (K,) int64.
    """

    means: Tensor
    factors: tuple[Tensor, ...]
    class_counts: Tensor

    @classmethod
    def of(cls, features: Iterable[Tensor]) -> Self:
        """Compute the statistics of K classes from their features, (n_k, D) each, taken one class at a time."""
        means, factors, counts = [], [], []
        for rows in features:
            means.append(rows.mean(0))
            factors.append(_factor(rows - means[-1]))
            counts.append(len(rows))
        return cls(torch.stack(means), tuple(factors), torch.tensor(counts, device=means[0].device))

    def noise(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one e ~ N(0, Sigma_k) for each of M classes (M,): (M, D)."""
        noise = self.means.new_zeros((len(classes), self.means.shape[1]))
        for factor, rows in zip(self.factors, rows_by_class(classes, len(self.means)), strict=True):
            if len(rows):
                z = torch.randn((len(rows), len(factor)), generator=generator, dtype=factor.dtype)
                noise[rows] = z.to(factor.device) @ factor
        return noise


def _factor(centred: Tensor) -> Tensor:
    scaled = centred / math.sqrt(max(len(centred) - 1, 1))
    if len(scaled) <= scaled.shape[1]:
        return scaled
    triangle: Tensor = torch.linalg.qr(scaled, mode="r").R
    return triangle


class Support(NamedTuple):
    """The support set of each of B samples (GLAG eq. 7, 10).

    Args:
        classes: (B, S) int64, nearest first.
        weights: (B, S), rows sum to one; 0 where a sample has fewer than S candidates.
    """

    classes: Tensor
    weights: Tensor


def support_sets(features: Tensor, labels: Tensor, statistics: ClassStatistics, size: int) -> Support:
    """Find the nearest class means among the classes with more images than the sample's own.

    Args:
        features: (B, D).
        labels: (B,) int64.
        size: S, the paper's K, at least 1; ties go to the lower label.

    Returns:
        Weights proportional to n_j / d_ij.
    """
    counts = statistics.class_counts
    # The form that multiplies matrices loses the digits of small distances, which weigh most.
    distances = torch.cdist(features, statistics.means, compute_mode="donot_use_mm_for_euclid_dist")
    candidates = counts > counts[labels][:, None]
    nearest = distances.masked_fill(~candidates, torch.inf).sort(dim=1, stable=True)
    classes, chosen = nearest.indices[:, :size], nearest.values[:, :size]
    weights = counts[classes] / chosen.clamp(min=1e-8)  # a missing candidate is infinitely far: weight 0
    return Support(classes, weights / weights.sum(1, keepdim=True).clamp(min=1e-30))


def draw_calibrated(
    features: Tensor,
    labels: Tensor,
    beta: Tensor,
    support: Support,
    statistics: ClassStatistics,
    gamma: float,
    gamma_form: Literal["ones", "identity"],
    generator: torch.Generator,
) -> Tensor:
    """Draw one new sample from the calibrated distribution of each given one.

    Args:
        features: (B, D) samples x_i, in the space of `statistics`.
        labels: (B,) int64.
        beta: (B,) in [0, 1], how much is taken from the support; 0 is used where the support is empty.
        gamma: added to every entry of the covariance (`ones`) or to its diagonal (`identity`).
        generator: on the CPU, whatever the device of the features.

    Returns:
        (B, D), labelled as the samples they come from.
    """
    b = torch.where(support.weights.sum(1) > 0, beta, 0).to(features)[:, None]
    new = (1 - b) * (features + statistics.noise(labels, generator))
    for classes, weights in zip(support.classes.T, support.weights.T[..., None], strict=True):
        new += b * (weights * statistics.means[classes] + weights.sqrt() * statistics.noise(classes, generator))
    if gamma:
        width = 1 if gamma_form == "ones" else features.shape[1]
        spread = torch.randn((len(features), width), generator=generator, dtype=features.dtype)
        new += gamma**0.5 * spread.to(features.device)
    return new
