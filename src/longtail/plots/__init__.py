"""Plots that a person reads at a glance: plain data in, one PNG out, equal bytes for equal data."""

from longtail.plots.accuracy import accuracy_by_count, group_bars
from longtail.plots.beta import beta_by_class
from longtail.plots.class_counts import class_counts
from longtail.plots.confusion import confusion
from longtail.plots.curves import learning_curves
from longtail.plots.features import feature_view
from longtail.plots.page import Look, looks

__all__ = [
    "Look",
    "accuracy_by_count",
    "beta_by_class",
    "class_counts",
    "confusion",
    "feature_view",
    "group_bars",
    "learning_curves",
    "looks",
]
