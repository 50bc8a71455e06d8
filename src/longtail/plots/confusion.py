"""Which classes are taken for which."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from torch import Tensor

from longtail.plots.page import Floats, by_count, page, shortened

NAMED = 20  # classes that are named, with a number in each cell
FINEST = 200  # rows of the picture; more classes share rows


def confusion(method: str, matrix: Tensor, class_counts: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Draw the confusion matrix, rows normalised, classes ordered from most to fewest training images.

    Args:
        method: named in the title.
        matrix: (K, K) counts; row r, column c: images of class r taken for class c, summed over seeds.
        class_counts: (K,) training images per class.
        classes: K names.
        path: PNG to write.
    """
    order = by_count(class_counts)
    block = -(-len(order) // FINEST)
    shares = _row_shares(_merged(matrix[order][:, order], block))
    named = len(order) <= NAMED
    size = (0.52 * len(order) + 3.4, 0.46 * len(order) + 2.2) if named else (7.4, 6.4)
    with page(path, f"Which classes does {method} take for which?", size) as (figure, (ax,)):
        image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest", aspect="auto")
        ax.set_facecolor("#d9d9d9")  # shows where a class has no test image
        ax.grid(visible=False)
        if named:
            names = [shortened(classes[k]) for k in order]
            _name_classes(
                ax, [f"{name} ({int(class_counts[k]):,})" for name, k in zip(names, order, strict=True)], names
            )
            _write_shares(ax, shares)
        else:
            _explain_axes(ax, class_counts[order], block)
        figure.colorbar(image, ax=ax, label="share of the true class's images (%)", ticks=[0, 5, 20, 50, 100])


def _merged(matrix: Tensor, block: int) -> Tensor:
    """Sum blocks of classes, so that thousands of classes still fit into a picture."""
    if block == 1:
        return matrix
    members = torch.arange(len(matrix)) // block
    rows = torch.zeros(int(members[-1]) + 1, len(matrix), dtype=matrix.dtype).index_add_(0, members, matrix)
    return torch.zeros(len(rows), len(rows), dtype=matrix.dtype).index_add_(1, members, rows)


def _row_shares(matrix: Tensor) -> Floats:
    """Return percent of each row, NaN for a row without images."""
    counts = matrix.double()
    shares: Floats = (100 * counts / counts.sum(1, keepdim=True)).numpy()
    return shares


def _name_classes(ax: Axes, rows: list[str], columns: list[str]) -> None:
    ax.set_yticks(range(len(rows)), rows)
    turn = 0 if max(map(len, columns)) <= 3 else 45
    ax.set_xticks(range(len(columns)), columns, rotation=turn, ha="right" if turn else "center")
    ax.set_ylabel("true class (training images)")
    ax.set_xlabel("predicted class")


def _write_shares(ax: Axes, shares: Floats) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 35 else "black"
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)


def _explain_axes(ax: Axes, counts: Tensor, block: int) -> None:
    """Label the rows with counts of training images: a hundred names would be illegible."""
    rows = -(-len(counts) // block)
    ticks = [round(i * (rows - 1) / 5) for i in range(6)]
    images = [f"{int(counts[tick * block]):,}" for tick in ticks]
    ax.set_xticks(ticks, images)
    ax.set_yticks(ticks, images)
    shared = f"; {block} classes share a row" if block > 1 else ""
    ax.set_ylabel(f"training images of the true class{shared}")
    ax.set_xlabel("training images of the predicted class")
