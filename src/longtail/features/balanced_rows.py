"""Which rows make every class as large as the largest: real ones, and those that are yet to be drawn.

Class k has n_k real rows and gets n_max - n_k drawn ones. Those of a tail class come from its own samples, as evenly
as the numbers allow: floor((n_max - n_k) / n_k) each, and one more for a random few. Those of a head class come from
the class as a whole.

Source    GLAG, arXiv:2203.00452, section 4.2: "the sampling number for each tail class will depend on the training
          sample number gap"; per sample as TailCalibX, arXiv:2111.05956
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longtail.features.statistics import rows_by_class


class Union(NamedTuple):
    """What each row of an epoch is, before anything is drawn; (R,) each.

    Args:
        labels: int64.
        sources: int64 row of the bank that it is or comes from, -1 for a draw from a whole head class.
        is_drawn: bool, false for real rows.
    """

    labels: Tensor
    sources: Tensor
    is_drawn: Tensor

    def part(self, rows: Tensor) -> "Union":
        """Return some rows."""
        return Union(self.labels[rows], self.sources[rows], self.is_drawn[rows])


def balanced_union(labels: Tensor, is_head: Tensor, draws: torch.Generator) -> Union:
    """List the rows that give every class n_max, real ones first.

    Args:
        labels: (N,) int64 of the real rows.
        is_head: (K,) bool.
    """
    by_class = rows_by_class(labels, len(is_head))
    largest = max(len(rows) for rows in by_class)
    sources = [torch.arange(len(labels))]
    for rows, head in zip(by_class, is_head.tolist(), strict=True):
        missing = torch.arange(largest - len(rows))
        shuffled = rows[torch.randperm(len(rows), generator=draws)]  # the first of them take the remainder
        sources.append(torch.full_like(missing, -1) if head else shuffled[missing % len(rows)])
    missing_counts = torch.tensor([len(part) for part in sources[1:]])
    drawn_labels = torch.arange(len(is_head)).repeat_interleave(missing_counts)
    is_drawn = torch.arange(len(labels) + len(drawn_labels)) >= len(labels)
    return Union(torch.cat([labels, drawn_labels]), torch.cat(sources), is_drawn)
