"""Who is good at what: accuracy per class against its number of training images, and per group."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from longtail.evaluation import Summary
from longtail.plots.page import GREY, Floats, Look, floats, log_counts, page

PANELS = ("overall", "many", "medium", "few")


def accuracy_by_count(
    per_class: Mapping[str, Sequence[float | None]],
    class_counts: Tensor,
    groups: Mapping[str, Tensor],
    look: Mapping[str, Look],
    path: Path,
) -> None:
    """Draw one panel per method: a dot per class, a smooth line through them, and the first method's line to compare.

    Args:
        per_class: method -> K accuracies, fractions, None for a class without test image; the first is the baseline.
        class_counts: (K,) training images per class.
        groups: many, medium, few as (K,) bool masks; dotted lines stand between them.
        look: of every method.
        path: PNG to write.
    """
    counts = floats(class_counts)
    baseline, *_ = per_class
    columns = len(per_class) if len(per_class) <= 3 else min(4, ceil(sqrt(len(per_class))))
    rows = ceil(len(per_class) / columns)
    size = (max(2.7 * columns + 0.6, 7.0), 2.3 * rows + 1.2)
    question = "How well is each class recognised, given its number of training images?"
    with page(path, question, size, (rows, columns), sharex=True, sharey=True) as (figure, axes):
        for ax, (name, accuracies) in zip(axes, per_class.items(), strict=False):
            _draw_classes(ax, counts, 100 * floats(accuracies), look[name])
            if name != baseline:
                _compare(ax, counts, 100 * floats(accuracies), 100 * floats(per_class[baseline]), look[name])
            _mark_groups(ax, counts, groups)
            ax.set_title(name, color=look[name].colour, fontweight="bold")
        axes[0].set_ylim(-4, 104)
        axes[0].set_xscale("log")
        axes[0].set_xlim(counts.max() * 1.25, max(counts.min(), 1) / 1.25)  # as everywhere: many left, few right
        log_counts(axes[0].xaxis)
        for ax in axes[max(len(per_class) - columns, 0) : len(per_class)]:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("training images (log scale)")
        for ax in axes[len(per_class) :]:
            ax.remove()
        figure.supylabel("test accuracy of the class (%)", fontsize=10)
        figure.legend(handles=_key(baseline, len(per_class) > 1), loc="outside lower left", ncols=4)


def group_bars(summaries: Mapping[str, Summary], look: Mapping[str, Look], path: Path) -> None:
    """Draw accuracy overall, many, medium and few as bars with their standard deviation over seeds, a row per method.

    Args:
        summaries: method -> metric -> {mean, std, n, classes}; a group without classes gets no panel.
        look: of every method.
        path: PNG to write.
    """
    baseline, *_ = summaries.values()
    panels = [name for name in PANELS if baseline[name]["mean"] is not None]
    size = (2.2 * len(panels) + 1.4, 0.34 * len(summaries) + 1.7)
    first = next(iter(summaries))
    question = f"Who gains where, compared with {first}?" if len(summaries) > 1 else f"How accurate is {first}?"
    with page(path, question, size, (1, len(panels)), sharey=True) as (figure, axes):
        for ax, metric in zip(axes, panels, strict=True):
            _draw_bars(ax, {name: summary[metric] for name, summary in summaries.items()}, look)
            ax.set_title(_panel_title(metric, baseline[metric].get("classes")))
        axes[0].set_yticks(range(len(summaries)), list(summaries), color="black")
        axes[0].set_ylim(len(summaries) - 0.5, -0.5)
        seeds = baseline["overall"]["n"]
        spread = f"; whiskers: ± std over {seeds} seeds" if seeds != 1 else "; one seed"
        figure.supxlabel(f"test accuracy (%){spread}; dotted line: {first}", fontsize=10)


def smoothed(counts: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return the distinct counts and a Gaussian-weighted mean of the values over log counts; NaN values are left out.

    The width is a twelfth of the range, so ten classes keep their shape and a hundred become one line.
    """
    known = ~np.isnan(values)
    logs = np.log(np.maximum(counts[known], 1))
    if not len(logs):
        return np.zeros(0), np.zeros(0)
    centres = np.unique(logs)
    width = max((logs.max() - logs.min()) / 12, 1e-6)
    weights = np.exp(-0.5 * ((centres[:, None] - logs) / width) ** 2)
    return np.exp(centres), weights @ values[known] / weights.sum(1)


def _draw_classes(ax: Axes, counts: Floats, accuracies: Floats, look: Look) -> None:
    few = len(counts) <= 30
    size, alpha = (26, 0.9) if few else (9, 0.45) if len(counts) <= 200 else (9, 0.2)
    ax.scatter(counts, accuracies, s=size, alpha=alpha, color=look.colour, linewidths=0, zorder=3)
    ax.plot(*smoothed(counts, accuracies), color=look.colour, linewidth=2, zorder=4)


def _compare(ax: Axes, counts: Floats, accuracies: Floats, baseline: Floats, look: Look) -> None:
    x, line = smoothed(counts, baseline)
    ax.plot(x, line, color=GREY, linewidth=1.4, zorder=2)
    ax.fill_between(x, line, smoothed(counts, accuracies)[1], color=look.colour, alpha=0.15, linewidth=0, zorder=1)


def _mark_groups(ax: Axes, counts: Floats, groups: Mapping[str, Tensor]) -> None:
    ranges = [counts[mask.numpy()] for mask in groups.values() if bool(mask.any())]
    for more, fewer in pairwise(ranges):
        ax.axvline(np.sqrt(more.min() * max(fewer.max(), 1)), color="#b0b0b0", linewidth=1, linestyle=":", zorder=0)


def _key(baseline: str, compared: bool) -> list[Line2D]:
    key = [
        Line2D([], [], color="black", marker="o", linestyle="", markersize=4, label="one class"),
        Line2D([], [], color="black", linewidth=2, label="smoothed over classes"),
        Line2D([], [], color="#b0b0b0", linestyle=":", label="many | medium | few"),
    ]
    return [*key, Line2D([], [], color=GREY, linewidth=1.4, label=f"{baseline}, to compare")] if compared else key


def _draw_bars(ax: Axes, entries: Mapping[str, Mapping[str, float | int | None]], look: Mapping[str, Look]) -> None:
    means = 100 * floats([entry["mean"] for entry in entries.values()])
    stds = 100 * floats([entry["std"] for entry in entries.values()])
    colours = [look[name].colour for name in entries]
    ax.barh(range(len(entries)), means, xerr=stds, color=colours, height=0.72, ecolor="black", capsize=2.5)
    for y, (mean, std) in enumerate(zip(means, np.nan_to_num(stds), strict=True)):
        ax.text(mean + std + 2.5, y, f"{mean:.1f}", va="center", fontsize=9)
    ax.axvline(means[0], color="#222222", linewidth=1, linestyle=":")
    ax.set_xlim(0, 100)
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def _panel_title(metric: str, classes: float | int | None) -> str:
    return metric if classes is None else f"{metric}: {classes} {'class' if classes == 1 else 'classes'}"
