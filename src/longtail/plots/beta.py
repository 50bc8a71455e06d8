"""How far GLAG moves the samples of each class towards their neighbours, over its generation epochs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from longtail.plots.page import Floats, Row, by_count, count_epochs, floats, page, shortened

NAMED = 30


def beta_by_class(
    method: str, histories: Sequence[Sequence[Row]], class_counts: Tensor, classes: tuple[str, ...], path: Path
) -> None:
    """Draw beta as a heat map: a row per class from most to fewest training images, a column per generation epoch.

    Lines would lie on each other, since classes move by equal steps. Classes that never borrow are left out: the heads.

    Args:
        method: named in the title.
        histories: one history per seed; rows without "beta" are left out, "beta" is K numbers in [0, 1].
        class_counts: (K,) training images per class.
        classes: K names.
        path: PNG to write.
    """
    betas = mean_beta(histories)
    highest = betas.max(axis=0)
    order = [int(k) for k in by_count(class_counts) if highest[k] > 0 or highest.max() == 0]
    betas = betas[:, order]
    low, high = np.floor(10 * np.nanmin(betas)) / 10, np.floor(10 * np.nanmax(betas) + 1) / 10
    named = len(order) <= NAMED
    height = max(0.27 * len(order) + 1.7, 2.8) if named else 5.0
    with page(path, f"How far does {method} move each class towards its neighbours?", (8, height)) as (figure, (ax,)):
        extent = (0.5, len(betas) + 0.5, len(order) - 0.5, -0.5)
        image = ax.imshow(
            betas.T, "viridis", aspect="auto", interpolation="nearest", extent=extent, vmin=low, vmax=high
        )
        ax.grid(visible=False)
        count_epochs(ax.xaxis)
        ax.set_xlabel(f"generation epoch{_left_out(len(class_counts) - len(order))}")
        ticks = list(range(len(order))) if named else [round(i * (len(order) - 1) / 8) for i in range(9)]
        labels = [f"{shortened(classes[order[t]])} ({int(class_counts[order[t]]):,})" for t in ticks]
        ax.set_yticks(ticks, labels)
        ax.set_ylabel("class (training images)")
        figure.colorbar(image, ax=ax, label=f"β, mean over {_seeds(len(histories))}")


def mean_beta(histories: Sequence[Sequence[Row]]) -> Floats:
    """Return (epochs, K) beta, the mean over seeds."""
    per_seed = [np.stack([floats(_beta(row)) for row in rows if "beta" in row]) for rows in histories]
    mean: Floats = np.mean(per_seed, axis=0)
    return mean


def _beta(row: Row) -> list[float]:
    beta = row["beta"]
    assert isinstance(beta, list)
    return beta


def _left_out(heads: int) -> str:
    return f"; {heads} head {'class' if heads == 1 else 'classes'} with β = 0 left out" if heads else ""


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"
