"""What all plots share: the page they are drawn on, how a method looks, how numbers are written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

Row = Mapping[str, float | list[float]]  # one epoch of a history.jsonl
Floats = NDArray[np.float64]

DPI = 150
# Told apart with any colour vision (Okabe and Ito, 2008; Tol, 2021). The first is for what others are compared with.
COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933", "#332288")
STROKES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
MARKERS = ("o", "s", "^")
GROUP_COLOURS = ("#2f4b7c", "#3a9e97", "#e07b39")  # many, medium, few
GREY = "#8a8a8a"

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b0b0b0",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called "$10"
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in every plot."""

    colour: str
    stroke: Any
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Give each name its own look, in order: grey, nine colours, and these again with another stroke and marker.

    Args:
        names: methods, then representations; a name that is both has one look.
    """
    first, *others = dict.fromkeys(names)
    rounds, colours = len(STROKES), COLOURS[1:]
    return {first: Look(COLOURS[0], STROKES[0], MARKERS[0])} | {
        name: Look(colours[i % len(colours)], STROKES[i // len(colours) % rounds], MARKERS[i // len(colours) % rounds])
        for i, name in enumerate(others)
    }


@contextmanager
def page(
    path: Path, question: str, size: tuple[float, float], panels: tuple[int, int] = (1, 1), **sharing: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure and its panels, row by row; write it as PNG at the end.

    Drawn without pyplot and the user's matplotlibrc, saved without a version or a time: equal data, equal bytes.

    Args:
        question: the title, what the reader wants to know.
        size: width, height in inches.
        panels: rows, columns.
        sharing: `sharex`, `sharey` of the panels.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(size, layout="constrained")
        figure.suptitle(question, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        yield figure, list(figure.subplots(*panels, squeeze=False, **sharing).flat)
        figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})


def floats(values: Tensor | Sequence[float | None]) -> Floats:
    """Turn numbers into a float64 array; None becomes NaN."""
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def by_count(class_counts: Tensor) -> Tensor:
    """Order classes from most to fewest training images, ties by label."""
    return (-class_counts).argsort(stable=True)


def shortened(name: str) -> str:
    """Cut a class name that would push the data off the page."""
    return name if len(name) <= 22 else f"{name[:20]}…"


def count_epochs(axis: Any) -> None:
    """Mark an axis of epochs at whole, round numbers."""
    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def log_counts(axis: Any) -> None:
    """Write a logarithmic axis in plain numbers: 1, 2, 5, 10, ... 1k, ..."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())
