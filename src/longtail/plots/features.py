"""Where generated features lie among real ones."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from torch import Tensor

from longtail.plots.page import COLOURS, page, shortened

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

TAILS, HEADS = 3, 2  # panels, and neighbours in each
SHOWN = 150  # points per class, at most
TAIL_COLOUR, HEAD_COLOURS = COLOURS[2], (COLOURS[1], COLOURS[3])


def feature_view(
    features: Tensor, labels: Tensor, generated: Tensor, generated_labels: Tensor, classes: tuple[str, ...], path: Path
) -> None:
    """Draw real and generated features of the smallest classes beside their nearest larger neighbours.

    Each panel is one tail class, in the plane of the two principal components of the real features that it shows.

    Args:
        features: (N, D) real, in the space in which features are generated.
        labels: (N,) int64.
        generated: (M, D).
        generated_labels: (M,) int64.
        classes: K names.
        path: PNG to write.
    """
    from sklearn.decomposition import PCA  # here, since every report imports this module, and sklearn takes a second

    counts = torch.bincount(labels, minlength=len(classes))
    names = [shortened(name) for name in classes]
    tails = tail_classes(counts, generated_labels)
    question = "Do generated features fill in the tail without straying into the heads?"
    with page(path, question, (max(3.5 * len(tails), 7.2), 4.3), (1, len(tails))) as (_, axes):
        for ax, tail in zip(axes, tails, strict=True):
            heads = nearest_heads(features, labels, counts, tail)
            real = {k: _thin(features[labels == k]) for k in (*heads, tail)}
            plane = PCA(2, svd_solver="full").fit(torch.cat(list(real.values())).numpy())
            for k, colour in zip(heads, HEAD_COLOURS, strict=False):
                _draw(ax, plane, real[k], f"{names[k]}: {counts[k]:,} real", color=colour, s=10, alpha=0.45)
            made = generated[generated_labels == tail]
            label = f"{names[tail]}: {len(made):,} generated"
            _draw(ax, plane, _thin(made), label, color=TAIL_COLOUR, s=22, alpha=0.6, marker="x", linewidths=0.9)
            style = {
                "color": TAIL_COLOUR,
                "s": 42 if counts[tail] <= 20 else 18,
                "edgecolors": "black",
                "linewidths": 0.9,
            }
            _draw(ax, plane, real[tail], f"{names[tail]}: {counts[tail]:,} real", **style)
            _finish(ax, names[tail])


def tail_classes(counts: Tensor, generated_labels: Tensor) -> list[int]:
    """Choose the classes with the fewest real features, of those that something was generated for, if any."""
    generated = torch.isin(torch.arange(len(counts)), generated_labels)
    candidates = (counts > 0) & (generated if bool(generated.any()) else True)
    order = counts.argsort(stable=True)
    chosen: list[int] = order[candidates[order]][:TAILS].tolist()
    return chosen


def nearest_heads(features: Tensor, labels: Tensor, counts: Tensor, tail: int) -> list[int]:
    """Choose, of the larger half of the classes, those whose means are nearest to the tail class's mean."""
    others = [k for k in range(len(counts)) if k != tail and counts[k] >= max(int(counts.median()), 1)]
    centre = features[labels == tail].float().mean(0)
    distances = [float((features[labels == k].float().mean(0) - centre).norm()) for k in others]
    return [k for _, k in sorted(zip(distances, others, strict=True))[:HEADS]]


def _thin(points: Tensor) -> Tensor:
    """Take at most SHOWN points, evenly spaced in their order."""
    return points[:: -(-len(points) // SHOWN) or 1].float()


def _draw(ax: Axes, plane: "PCA", points: Tensor, label: str, **style: object) -> None:
    if len(points):
        ax.scatter(*plane.transform(points.numpy()).T, label=label, **{"linewidths": 0, **style})  # type: ignore[arg-type]


def _finish(ax: Axes, name: str) -> None:
    ax.set_title(f"tail class {name}", fontweight="bold")
    ax.set_xlabel(f"first principal component\n(at most {SHOWN} points of a kind are drawn)")
    ax.set_ylabel("second principal component")
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=9, handletextpad=0.3)
