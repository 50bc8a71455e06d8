"""GLAG eq. 5 to 10 in plain loops from the paper."""

import math

Rows = list[list[float]]
Moments = tuple[list[float], Rows]  # mean and covariance


def mean_of(rows: Rows) -> list[float]:
    """Eq. 5."""
    return [math.fsum(row[d] for row in rows) / len(rows) for d in range(len(rows[0]))]


def covariance_of(rows: Rows) -> Rows:
    """Eq. 6; zero for one row, where the paper's divisor is zero."""
    mean, dim = mean_of(rows), len(rows[0])
    divisor = max(len(rows) - 1, 1)
    return [
        [math.fsum((row[a] - mean[a]) * (row[b] - mean[b]) for row in rows) / divisor for b in range(dim)]
        for a in range(dim)
    ]


def support_of(x: list[float], label: int, means: Rows, counts: list[int], size: int) -> tuple[list[int], list[float]]:
    """Eq. 7 and 10, with weights that sum to one."""
    distance = {k: math.dist(x, means[k]) for k in range(len(means)) if counts[k] > counts[label]}
    chosen = sorted(distance, key=lambda k: (distance[k], k))[:size]
    weights = [counts[k] / max(distance[k], 1e-8) for k in chosen]
    return chosen, [w / math.fsum(weights) for w in weights]


def calibrated(
    x: list[float],
    label: int,
    beta: float,
    moments: list[Moments],
    counts: list[int],
    size: int,
    gamma: float,
    form: str,
) -> Moments:
    """Return mean and covariance of eq. 8 and 9 from those of every class."""
    means = [mean for mean, _ in moments]
    chosen, weights = support_of(x, label, means, counts, size)
    beta = beta if chosen else 0.0
    own, dim = moments[label][1], len(x)
    spreads = [moments[k][1] for k in chosen]
    mean = [
        (1 - beta) * x[d] + beta * sum(w * means[k][d] for k, w in zip(chosen, weights, strict=True))
        for d in range(dim)
    ]
    covariance = [
        [
            (1 - beta) ** 2 * own[a][b]
            + beta**2 * sum(w * spread[a][b] for w, spread in zip(weights, spreads, strict=True))
            + (gamma if form == "ones" or a == b else 0.0)
            for b in range(dim)
        ]
        for a in range(dim)
    ]
    return mean, covariance
