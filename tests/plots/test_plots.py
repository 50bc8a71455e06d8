import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import longtail.plots as plots
from longtail.evaluation import EvaluationSpec, Metrics, Summary, summarize
from longtail.plots.accuracy import smoothed
from longtail.plots.beta import mean_beta
from longtail.plots.curves import curve
from longtail.plots.features import nearest_heads, tail_classes
from longtail.plots.page import Row

SPEC = EvaluationSpec(many_above=100, few_below=20, index_ranges=None)
METHODS = tuple(f"method_{i}" for i in range(20))
LOOK = plots.looks(METHODS)


def exponential(num_classes: int, most: int, least: int) -> Tensor:
    return torch.tensor([round(most * (least / most) ** (k / (num_classes - 1))) for k in range(num_classes)])


def names(num_classes: int) -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(num_classes))


def accuracies(num_classes: int, methods: int, missing: tuple[int, ...] = ()) -> dict[str, list[float | None]]:
    draws = torch.rand(methods, num_classes, generator=torch.Generator().manual_seed(0)).tolist()
    rows = ([None if k in missing else value for k, value in enumerate(row)] for row in draws)
    return dict(zip(METHODS, rows, strict=False))


def summaries(methods: int, seeds: int, few: float | None = 0.3) -> dict[str, Summary]:
    def metrics(i: int, seed: int) -> Metrics:
        values = {"overall": 0.5 + 0.02 * i + 0.01 * seed, "many": 0.9, "medium": 0.7, "few": few}
        return Metrics(values, {"many": 1, "medium": 4, "few": 5}, ())

    return {METHODS[i]: summarize([metrics(i, seed) for seed in range(seeds)]) for i in range(methods)}


def histories(seeds: int, epochs: int, num_classes: int, validate_every: int = 2) -> list[list[Row]]:
    def row(seed: int, epoch: int) -> Row:
        beta = [min(0.9, 0.6 + 0.01 * epoch * k / num_classes) for k in range(num_classes)]
        known: dict[str, float | list[float]] = {"epoch": epoch, "loss": 2 / (1 + epoch) + 0.1 * seed, "beta": beta}
        return {**known, "val_accuracy": 0.1 * seed + 0.5} if validate_every and epoch % validate_every == 0 else known

    return [[row(seed, epoch) for epoch in range(epochs)] for seed in range(seeds)]


def cloud(counts: Tensor, dim: int = 6) -> tuple[Tensor, Tensor]:
    """One Gaussian blob per class."""
    draws = torch.Generator().manual_seed(0)
    centres, labels = (
        5 * torch.randn(len(counts), dim, generator=draws),
        torch.arange(len(counts)).repeat_interleave(counts),
    )
    return centres[labels] + torch.randn(len(labels), dim, generator=draws), labels


def class_counts(path: Path, counts: Tensor) -> None:
    plots.class_counts(counts, SPEC.groups(counts), names(len(counts)), path)


def accuracy(path: Path, counts: Tensor, methods: int, missing: tuple[int, ...] = ()) -> None:
    per_class = accuracies(len(counts), methods, missing)
    plots.accuracy_by_count(per_class, counts, SPEC.groups(counts), LOOK, path)


def confusion(path: Path, counts: Tensor, missing: tuple[int, ...] = ()) -> None:
    matrix = torch.ones(len(counts), len(counts), dtype=torch.int64) + 9 * torch.eye(len(counts), dtype=torch.int64)
    matrix[list(missing)] = 0
    plots.confusion("ce", matrix, counts, names(len(counts)), path)


def beta(path: Path, counts: Tensor, seeds: int, epochs: int) -> None:
    plots.beta_by_class("glag", histories(seeds, epochs, len(counts)), counts, names(len(counts)), path)


def curves(path: Path, rows: int, seeds: int, epochs: int, validate_every: int = 2) -> None:
    every = {METHODS[i]: histories(seeds, epochs, 2, validate_every) for i in range(rows)}
    plots.learning_curves(every, LOOK, path)


def feature_view(path: Path, counts: Tensor, generated_per_class: int) -> None:
    features, labels = cloud(counts)
    generated, generated_labels = cloud(torch.full((len(counts),), generated_per_class))
    plots.feature_view(features, labels, generated, generated_labels, names(len(counts)), path)


TEN, HUNDRED, THOUSAND = exponential(10, 144, 4), exponential(100, 500, 5), exponential(1000, 1280, 5)
STEP, EQUAL = torch.tensor([500] * 5 + [5] * 5), torch.full((10,), 30)
Draw = Callable[[Path], None]
CASES: dict[str, Draw] = {
    "counts of 10 classes": lambda path: class_counts(path, TEN),
    "counts of 1000 classes": lambda path: class_counts(path, THOUSAND),
    "counts without few-shot classes": lambda path: class_counts(path, exponential(10, 5000, 50)),
    "equal counts": lambda path: class_counts(path, EQUAL),
    "one-image class and a class called $": lambda path: plots.class_counts(
        torch.tensor([200, 1]),
        SPEC.groups(torch.tensor([200, 1])),
        ("$10 $20", "a name that is far too long to be drawn"),
        path,
    ),
    "accuracy of 10 classes, 5 methods": lambda path: accuracy(path, TEN, 5),
    "accuracy of 100 classes, 20 methods": lambda path: accuracy(path, HUNDRED, 20),
    "accuracy of 1000 classes": lambda path: accuracy(path, THOUSAND, 2),
    "accuracy of one method": lambda path: accuracy(path, TEN, 1),
    "accuracy with missing classes": lambda path: accuracy(path, TEN, 2, missing=(0, 9)),
    "accuracy without any class": lambda path: accuracy(path, TEN, 2, missing=tuple(range(10))),
    "accuracy under a step": lambda path: accuracy(path, STEP, 2),
    "accuracy under equal counts": lambda path: accuracy(path, EQUAL, 2),
    "bars of 5 methods": lambda path: plots.group_bars(summaries(5, 3), LOOK, path),
    "bars of 20 methods": lambda path: plots.group_bars(summaries(20, 3), LOOK, path),
    "bars of one method and seed": lambda path: plots.group_bars(summaries(1, 1), LOOK, path),
    "bars with an empty group": lambda path: plots.group_bars(summaries(3, 2, few=None), LOOK, path),
    "confusion of 10 classes": lambda path: confusion(path, TEN),
    "confusion of 1000 classes": lambda path: confusion(path, THOUSAND),
    "confusion with a missing class": lambda path: confusion(path, TEN, missing=(3,)),
    "beta of 10 classes": lambda path: beta(path, TEN, 3, 40),
    "beta of 1000 classes": lambda path: beta(path, THOUSAND, 1, 5),
    "beta after one epoch": lambda path: beta(path, TEN, 1, 1),
    "curves of 2 representations": lambda path: curves(path, 2, 3, 60),
    "curves of 20 representations": lambda path: curves(path, 20, 2, 10),
    "curves of one epoch and seed": lambda path: curves(path, 1, 1, 1),
    "curves without validation": lambda path: curves(path, 2, 2, 5, validate_every=0),
    "features of 10 classes": lambda path: feature_view(path, TEN, 50),
    "features of a one-image class": lambda path: feature_view(path, torch.tensor([30, 1]), 20),
    "features without any generated": lambda path: feature_view(path, TEN, 0),
    "features of equal classes": lambda path: feature_view(path, EQUAL, 5),
}


def pixels(draw: Draw, path: Path) -> NDArray[np.uint8]:
    draw(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", CASES)
def test_a_plot_is_a_picture_of_readable_size(name: str, tmp_path: Path) -> None:
    picture = pixels(CASES[name], tmp_path / "one.png")
    height, width, _ = picture.shape
    assert 700 <= width <= 2000 and 250 <= height <= 2500
    assert np.count_nonzero(np.bincount(picture.ravel())) > 20  # shades: more than an empty page


CHANGES: dict[str, tuple[Draw, Draw]] = {
    "counts": (CASES["counts of 10 classes"], lambda path: class_counts(path, exponential(10, 144, 5))),
    "accuracy": (CASES["accuracy of 10 classes, 5 methods"], lambda path: accuracy(path, TEN, 5, missing=(4,))),
    "bars": (CASES["bars of 5 methods"], lambda path: plots.group_bars(summaries(5, 3, few=0.31), LOOK, path)),
    "confusion": (CASES["confusion of 10 classes"], CASES["confusion with a missing class"]),
    "beta": (CASES["beta of 10 classes"], lambda path: beta(path, TEN, 3, 39)),
    "curves": (CASES["curves of 2 representations"], lambda path: curves(path, 2, 2, 60)),
    "features": (CASES["features of 10 classes"], lambda path: feature_view(path, TEN, 51)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_equal_data_are_equal_bytes_and_other_data_another_picture(name: str, tmp_path: Path) -> None:
    draw, draw_other = CHANGES[name]
    one, _, other = (pixels(f, tmp_path / f"{i}.png") for i, f in enumerate((draw, draw, draw_other)))
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "0.png").read_bytes().lower()
    assert one.shape != other.shape or (one != other).any()


def test_a_user_s_style_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    CASES["bars of 5 methods"](tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 10, "axes.facecolor": "black"}):
        CASES["bars of 5 methods"](tmp_path / "two.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_every_method_looks_like_no_other_and_keeps_its_look() -> None:
    assert len(set(LOOK.values())) == len(METHODS)
    both = plots.looks([*METHODS[:5], METHODS[0], "representation"])
    assert [both[name] for name in METHODS[:5]] == [LOOK[name] for name in METHODS[:5]]
    assert both["representation"] not in [LOOK[name] for name in METHODS[:5]]


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 100) | st.just(math.nan)), min_size=1, max_size=20))
def test_the_smooth_line_is_a_weighted_mean_in_plain_loops(points: list[tuple[int, float]]) -> None:
    known = [(math.log(count), value) for count, value in points if not math.isnan(value)]
    centres, line = smoothed(np.array([float(count) for count, _ in points]), np.array([value for _, value in points]))
    assert centres == pytest.approx(sorted({math.exp(log) for log, _ in known}))
    width = max((max(log for log, _ in known) - min(log for log, _ in known)) / 12, 1e-6) if known else 1.0
    for centre, value in zip(centres, line, strict=True):
        weights = [math.exp(-(((math.log(centre) - log) / width) ** 2) / 2) for log, _ in known]
        expected = sum(w * v for w, (_, v) in zip(weights, known, strict=True)) / sum(weights)
        assert value == pytest.approx(expected, abs=1e-6)


def test_curves_are_means_over_seeds_where_a_value_was_logged() -> None:
    seeds: list[list[Row]] = [
        [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 2.0, "val_accuracy": 0.5}],
        [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 2.0, "val_accuracy": 0.7}],
    ]
    epochs, means, stds = curve(seeds, "loss")
    assert (epochs.tolist(), means.tolist()) == ([1, 2], [2, 2])
    assert stds.tolist() == [pytest.approx(math.sqrt(2)), 0]
    assert curve(seeds, "val_accuracy")[0].tolist() == [2]
    assert curve(seeds[:1], "loss")[2].tolist() == [0, 0]


def test_beta_is_the_mean_over_seeds_of_the_rows_that_have_it() -> None:
    seeds: list[list[Row]] = [
        [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "beta": [0.2, 0.6]}],
        [{"epoch": 1, "beta": [0.4, 0.6]}],
    ]
    assert mean_beta(seeds) == pytest.approx(np.array([[0.3, 0.6]]))


def test_heads_that_never_borrow_take_no_room(tmp_path: Path) -> None:
    def height(beta: list[float]) -> int:
        rows: list[list[Row]] = [[{"epoch": 0, "beta": beta}]]
        return len(pixels(partial(plots.beta_by_class, "glag", rows, TEN, names(10)), tmp_path / "beta.png"))

    assert height([0.0] * 5 + [0.6] * 5) < height([0.6] * 10) == height([0.0] * 10)


def test_tails_are_the_smallest_classes_that_features_were_generated_for() -> None:
    counts = torch.tensor([50, 3, 0, 2, 9, 7])
    assert tail_classes(counts, torch.tensor([1, 4, 5, 0, 2])) == [1, 5, 4]
    assert tail_classes(counts, torch.tensor([], dtype=torch.int64)) == [3, 1, 5]


def test_heads_are_the_nearest_of_the_larger_classes() -> None:
    counts = torch.tensor([20, 20, 20, 2, 2])
    centres = torch.tensor([[9.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.1, 0.0]])
    labels = torch.arange(5).repeat_interleave(counts)
    assert nearest_heads(centres[labels], labels, counts, tail=3) == [1, 2]
