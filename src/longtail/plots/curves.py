"""How training went: loss and validation accuracy per epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from longtail.plots.page import Floats, Look, Row, count_epochs, page

Histories = Mapping[str, Sequence[Sequence[Row]]]  # name -> seed -> epoch
PANELS = {"loss": "training loss (nats)", "val_accuracy": "validation accuracy (%)"}


def learning_curves(histories: Histories, look: Mapping[str, Look], path: Path) -> None:
    """Draw loss and, where it was measured, validation accuracy: mean over seeds, band ± std.

    Args:
        histories: representation -> one history per seed; rows hold epoch (0-based), loss and at times val_accuracy.
        look: of every representation.
        path: PNG to write.
    """
    keys = [key for key in PANELS if any(key in row for seeds in histories.values() for rows in seeds for row in rows)]
    question = "Have the representations finished learning?"
    with page(path, question, (4.2 * len(keys) + 1.4, 3.6), (1, len(keys))) as (figure, axes):
        for ax, key in zip(axes, keys, strict=True):
            for name, seeds in histories.items():
                _draw(ax, *curve(seeds, key), look[name], name if key == "loss" else None, 100 if key != "loss" else 1)
            ax.set_title(PANELS[key])
            ax.set_xlabel("epoch")
            count_epochs(ax.xaxis)
        axes[0].set_ylim(bottom=0)
        figure.legend(loc="outside right upper")


def curve(seeds: Sequence[Sequence[Row]], key: str) -> tuple[Floats, Floats, Floats]:
    """Return the epochs (1-based) at which a key was logged, its mean over seeds and its std (zero for one seed)."""
    values: dict[float, list[float]] = {}
    for rows in seeds:
        for row in rows:
            if key in row:
                values.setdefault(float(row["epoch"]) + 1, []).append(float(row[key]))  # type: ignore[arg-type]
    epochs = sorted(values)
    means = np.array([np.mean(values[epoch]) for epoch in epochs])
    stds = np.array([np.std(values[epoch], ddof=1) if len(values[epoch]) > 1 else 0.0 for epoch in epochs])
    return np.array(epochs), means, stds


def _draw(ax: Axes, epochs: Floats, means: Floats, stds: Floats, look: Look, label: str | None, factor: float) -> None:
    marker = look.marker if len(epochs) <= 25 else ""
    style = {"color": look.colour, "linestyle": look.stroke, "marker": marker, "markersize": 4}
    ax.plot(epochs, factor * means, label=label, **style)
    ax.fill_between(
        epochs, factor * (means - stds), factor * (means + stds), color=look.colour, alpha=0.15, linewidth=0
    )
