"""Which classes of a training set are heads, and which head sample of a batch meets which tail sample, as RSG has it.

Source    RSG, Wang et al., CVPR 2021, arXiv:2106.09859, section 3
Differs   the paper counts pairs for batches with at least as many heads as tails; for others the kinds change places,
          as in the released code
"""

import torch
from torch import Tensor


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
