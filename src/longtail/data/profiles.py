"""Class counts of synthetic long tails, in label order: class 0 is the largest.

    exponential   n_k = int(n_max f^(k / (K - 1)))
    step          the first K // 2 classes n_max, the others int(n_max f)
    pareto        n_k = floor(n_min + (n_max - n_min) (q_k - q_K) / (q_1 - q_K)),   q_k = ((k - 1/2) / K)^(-1 / shape)

with f = 1 / imbalance_factor = n_min / n_max. The code divides by the factor, which is exact where n_min is a whole
number (49 * (1 / 49) is not 1); the published counts are the same either way.

Source    Cui et al., CVPR 2019 (exponential); Buda et al., Neural Networks 2018 (step); Cao et al., NeurIPS 2019 (both)
Differs   an odd K gives the smaller half of a step profile the extra class; the LDAM code drops it. Pareto is a
          deterministic stand-in for the random draw of Liu et al., CVPR 2019: shape 7.459 from 1280 to 5 images over
          1000 classes is close to ImageNet-LT, shape 1.873 from 4980 to 5 over 365 classes to Places-LT
Limits    imbalance_factor = 1: every class has n_max images
"""

import math
from typing import Literal

Profile = Literal["exponential", "step", "pareto", "natural"]


def exponential(n_max: int, classes: int, imbalance_factor: float) -> list[int]:
    """Return class counts that fall exponentially with the label, truncated to whole images."""
    return [int(n_max / imbalance_factor ** (k / (classes - 1))) for k in range(classes)]


def step(n_max: int, classes: int, imbalance_factor: float) -> list[int]:
    """Return class counts of two levels: half of the classes large, the other half small."""
    large = classes // 2
    return [n_max] * large + [int(n_max / imbalance_factor)] * (classes - large)


def pareto(n_max: int, classes: int, imbalance_factor: float, shape: float) -> list[int]:
    """Return class counts at the quantiles of a Pareto law, stretched between n_max and n_min.

    Args:
        shape: > 0; the smaller, the sooner the head is over.
    """
    n_min = int(n_max / imbalance_factor)
    quantiles = [((k + 0.5) / classes) ** (-1 / shape) for k in range(classes)]
    first, last = quantiles[0], quantiles[-1]
    return [math.floor(n_min + (n_max - n_min) * ((quantile - last) / (first - last))) for quantile in quantiles]
