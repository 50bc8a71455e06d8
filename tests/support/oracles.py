"""The papers' formulas again, in plain loops over Python numbers: written from the papers, not from our code."""

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import torch


def cross_entropy(logits: Sequence[float], label: int) -> float:
    """-log softmax(z)_y of one sample, in nats."""
    top = max(logits)
    return top + math.log(math.fsum(math.exp(z - top) for z in logits)) - logits[label]


def adjusted_cross_entropy(logits: Sequence[float], label: int, counts: Sequence[int], a: float) -> float:
    """GLAG eq. 4: cross entropy of z_j + a log pi_j with pi_j = n_j / N, of one sample."""
    adjusted = [z + a * math.log(n / sum(counts)) for z, n in zip(logits, counts, strict=True)]
    return cross_entropy(adjusted, label)


def gradual_alpha(s: float, c: float, epoch: int, epochs: int) -> float:
    """GLAG eq. 3: a = s (c^(T / T_max) - 1); its limit for c -> 1 with s (c - 1) kept is s T / T_max."""
    return s * epoch / epochs if c == 1 else s * (c ** (epoch / epochs) - 1)


def focal(logits: Sequence[float], label: int, gamma: float) -> float:
    """Lin et al.: (1 - p_y)^gamma (-log p_y) of one sample; 1 - p_y is the share of the other classes."""
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    others = math.fsum(power for j, power in enumerate(powers) if j != label) / math.fsum(powers)
    modulating: float = others**gamma
    return modulating * cross_entropy(logits, label)


def am_softmax(cosines: Sequence[float], label: int, margin: float, scale: float) -> float:
    """Wang et al.: -log(e^(s (cos_y - m)) / (e^(s (cos_y - m)) + sum over j != y of e^(s cos_j))) of one sample."""
    return cross_entropy([scale * (z - margin if j == label else z) for j, z in enumerate(cosines)], label)


def ldam_margins(counts: Sequence[int], max_margin: float) -> list[float]:
    """Cao et al.: Delta_j = C / n_j^(1/4), C such that the largest is max_margin."""
    quarters = [n**-0.25 for n in counts]
    return [max_margin / max(quarters) * quarter for quarter in quarters]


def ldam(cosines: Sequence[float], label: int, counts: Sequence[int], max_margin: float, scale: float) -> float:
    """Cao et al.: softmax with the margin of the label's class, of one sample."""
    return am_softmax(cosines, label, ldam_margins(counts, max_margin)[label], scale)


def balanced_softmax(logits: Sequence[float], label: int, counts: Sequence[int]) -> float:
    """Ren et al.: -log(n_y e^z_y / sum_j n_j e^z_j) of one sample."""
    top = max(logits)
    terms = [n * math.exp(z - top) for n, z in zip(counts, logits, strict=True)]
    return math.log(math.fsum(terms)) - math.log(terms[label])


def effective_number(beta: Decimal, n: int) -> Decimal:
    """Cui et al. eq. 2: E_n = (1 - beta^n) / (1 - beta), the sum of beta^i for i < n."""
    return Decimal(n) if beta == 1 else (1 - beta**n) / (1 - beta)


def class_balanced_weights(beta: float, counts: Sequence[int]) -> list[float]:
    """Cui et al. section 4: weights 1 / E_n, scaled so that they sum to K; with a hundred digits."""
    with localcontext() as context:
        context.prec = 100
        inverse = [1 / effective_number(Decimal(beta), n) for n in counts]
        return [float(w * len(counts) / sum(inverse)) for w in inverse]


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """sum(w v) / sum(w)."""
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def predict(row: list[float]) -> int:
    return max(range(len(row)), key=lambda k: row[k])


def loop_calibration_error(rows: list[list[float]], labels: list[int]) -> float:
    """Guo et al., eq. 3, with 15 bins [lower, upper), the last one closed."""
    edges = torch.linspace(0, 1, 16).tolist()
    error = 0.0
    for b in range(15):
        top = [(max(row), predict(row) == label) for row, label in zip(rows, labels, strict=True)]
        inside = [(p, hit) for p, hit in top if edges[b] <= p < edges[b + 1] or (b == 14 and p >= 1)]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(hit for _, hit in inside) / len(inside)
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    return error
