"""The papers' formulas again, in plain loops over Python numbers: written from the papers, not from our code."""

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext


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
