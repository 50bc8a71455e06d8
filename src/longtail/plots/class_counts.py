"""How many training images each class has."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from longtail.plots.page import GROUP_COLOURS, floats, log_counts, page, shortened

LOG_FROM = 20  # imbalance above which the tail is invisible on a linear axis
NAMED = 30  # classes whose names fit under the bars


def class_counts(counts: Tensor, groups: Mapping[str, Tensor], classes: tuple[str, ...], path: Path) -> None:
    """Draw training images per class in label order, coloured by group.

    Args:
        counts: (K,) training images per class.
        groups: many, medium, few as (K,) bool masks.
        classes: K names.
        path: PNG to write.
    """
    positions, heights = range(len(counts)), floats(counts)
    imbalance = heights.max() / max(heights.min(), 1)
    question = f"How unequal are the classes? From {heights.max():,.0f} to {heights.min():,.0f} training images"
    with page(path, question, (9, 3.8)) as (figure, (ax,)):
        for (name, mask), colour in zip(groups.items(), GROUP_COLOURS, strict=True):
            chosen = mask.tolist()
            bars = [x for x in positions if chosen[x]]
            if not bars:
                continue
            label = f"{name}: {len(bars)} {'class' if len(bars) == 1 else 'classes'}, {heights[bars].sum():,.0f} images"
            ax.bar(bars, heights[bars], width=0.8 if len(counts) <= 200 else 1.0, color=colour, label=label)
        if imbalance >= LOG_FROM:
            ax.set_yscale("log")
            ax.set_ylim(bottom=0.7)
            log_counts(ax.yaxis)
        ax.grid(axis="x", visible=False)
        ax.set_xlim(-0.6, len(counts) - 0.4)
        ax.set_ylabel("training images" + (" (log scale)" if imbalance >= LOG_FROM else ""))
        ax.set_xlabel("class" if len(counts) <= NAMED else "class, in label order")
        if len(counts) <= NAMED:
            names = [shortened(name) for name in classes]
            turn = 0 if max(map(len, names)) * len(names) < 90 else 45
            ax.set_xticks(positions, names, rotation=turn, ha="right" if turn else "center")
        figure.legend(loc="outside lower left", ncols=3, columnspacing=1.2, handlelength=1.2)
