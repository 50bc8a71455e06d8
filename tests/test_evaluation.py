import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import f1_score
from torch import Tensor

from longtail.evaluation import (
    EvaluationSpec,
    Metrics,
    Predictions,
    calibration_error,
    class_scores,
    confusion_matrix,
    evaluate,
    load_predictions,
    metrics_document,
    save_predictions,
    summarize,
)
from longtail.spec import InputError
from oracles import loop_calibration_error, predict

SPEC = EvaluationSpec(many_above=100, few_below=20, index_ranges=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, labels in which classes are often missing, and training counts around the thresholds."""
    num_classes, images = draw(st.integers(2, 7)), draw(st.integers(1, 30))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=images, max_size=images))
    counts = draw(st.lists(st.sampled_from([1, 19, 20, 100, 101, 500]), min_size=num_classes, max_size=num_classes))
    logits = torch.randn(images, num_classes, generator=torch.Generator().manual_seed(draw(st.integers(0, 10**6))))
    sharpness = draw(st.sampled_from([0.1, 3.0, 100.0]))
    return (sharpness * logits).softmax(1), torch.tensor(labels), torch.tensor(counts)


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def class_accuracy(predicted: list[int], labels: list[int], k: int) -> float | None:
    return mean([float(p == k) for p, label in zip(predicted, labels, strict=True) if label == k])


def class_f1(predicted: list[int], labels: list[int], k: int) -> float:
    pairs = list(zip(predicted, labels, strict=True))
    hits = sum(p == k and label == k for p, label in pairs)
    precision = hits / max(sum(p == k for p, _ in pairs), 1)
    recall = hits / max(sum(label == k for _, label in pairs), 1)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


@given(cases())
@settings(deadline=None)
def test_evaluate_equals_plain_loops(case: tuple[Tensor, Tensor, Tensor]) -> None:
    probabilities, labels, counts = case
    rows, truth = probabilities.tolist(), labels.tolist()
    predicted = [predict(row) for row in rows]
    accuracy = {k: class_accuracy(predicted, truth, k) for k in range(len(counts))}
    present = [k for k, value in accuracy.items() if value is not None]
    group = {
        "many": [k for k in present if counts[k] > 100],
        "medium": [k for k in present if 20 <= counts[k] <= 100],
        "few": [k for k in present if counts[k] < 20],
        "balanced": present,
    }
    metrics = evaluate(probabilities, labels, counts, SPEC)
    for name, members in group.items():
        assert metrics.values[name] == pytest.approx(mean([accuracy[k] or 0.0 for k in members])), name
        assert metrics.classes[name] == len(members)
    assert metrics.per_class == pytest.approx(tuple(accuracy.values()))
    assert metrics.values["overall"] == pytest.approx(
        mean([float(p == y) for p, y in zip(predicted, truth, strict=True)])
    )
    assert metrics.values["worst_class"] == pytest.approx(min(accuracy[k] or 0.0 for k in present))
    assert metrics.values["macro_f1"] == pytest.approx(mean([class_f1(predicted, truth, k) for k in present]))
    assert metrics.values["ece"] == pytest.approx(loop_calibration_error(rows, truth), abs=1e-5)
    json.dumps(metrics_document({0: metrics}), allow_nan=False)


@given(cases())
@settings(deadline=None)
def test_macro_f1_is_scikit_learns_over_the_classes_present(case: tuple[Tensor, Tensor, Tensor]) -> None:
    probabilities, labels, counts = case
    expected = f1_score(
        labels, probabilities.argmax(1), labels=sorted(set(labels.tolist())), average="macro", zero_division=0
    )
    assert evaluate(probabilities, labels, counts, SPEC).values["macro_f1"] == pytest.approx(expected)


@given(cases())
@settings(deadline=None)
def test_confusion_matrix_equals_plain_loops(case: tuple[Tensor, Tensor, Tensor]) -> None:
    probabilities, labels, counts = case
    expected = [[0] * len(counts) for _ in counts]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        expected[label][predict(row)] += 1
    assert confusion_matrix(probabilities, labels).tolist() == expected


@given(cases())
@settings(deadline=None)
def test_the_order_of_images_does_not_matter(case: tuple[Tensor, Tensor, Tensor]) -> None:
    probabilities, labels, counts = case
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    one = evaluate(probabilities, labels, counts, SPEC)
    other = evaluate(probabilities[shuffled], labels[shuffled], counts, SPEC)
    assert one.per_class == other.per_class
    assert one.values == pytest.approx(other.values, abs=1e-5)


def test_a_class_without_test_image_has_no_score_even_if_it_is_predicted() -> None:
    accuracy, f1 = class_scores(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    assert accuracy.tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert f1.tolist() == pytest.approx([2 / 3, math.nan], nan_ok=True)


def test_a_confidence_of_one_shares_the_last_bin() -> None:
    """A saturated softmax gives exactly 1; in a bin of its own the two errors here would not cancel."""
    probabilities = torch.tensor([[1.0, 0.0], [0.95, 0.05]])
    labels = torch.tensor([0, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(abs(0.975 - 0.5), abs=1e-6)


def test_rounding_above_one_is_not_taken_for_logits() -> None:
    probabilities = torch.tensor([[1.0000001, 0.0], [0.0, 1.0000001]])
    assert calibration_error(probabilities, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-6)


def test_thresholds_give_the_published_groups_of_cifar100_lt() -> None:
    """35/35/30 classes at imbalance 100 (methods.md 1.1)."""
    counts = torch.tensor([int(500 * 0.01 ** (k / 99)) for k in range(100)])
    assert [int(mask.sum()) for mask in SPEC.groups(counts).values()] == [35, 35, 30]


def test_index_ranges_follow_label_order() -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=(3, 4, 3))
    groups = {name: mask.nonzero().flatten().tolist() for name, mask in spec.index_groups(10).items()}
    assert groups == {"many_index": [0, 1, 2], "medium_index": [3, 4, 5, 6], "few_index": [7, 8, 9]}


def test_index_groups_are_reported_besides_the_thresholds() -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=(1, 1, 1))
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
    metrics = evaluate(probabilities, torch.tensor([0, 1, 2]), torch.tensor([500, 400, 300]), spec)
    assert [metrics.values[f"{name}_index"] for name in ("many", "medium", "few")] == [1, 0, 1]
    assert metrics.values["many"] == pytest.approx(2 / 3)
    assert metrics.values["few"] is None


@pytest.mark.parametrize("ranges", [(1, 1, 2), (0, 0, 0), (5, 0, 0)])
def test_index_ranges_must_cover_the_classes(ranges: tuple[int, int, int]) -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=ranges)
    with pytest.raises(InputError, match=r"^evaluation\.index_ranges is .* 3 classes.*null\.$"):
        evaluate(torch.eye(3), torch.arange(3), torch.ones(3), spec)


def test_ranges_with_an_empty_group_are_allowed() -> None:
    spec = EvaluationSpec(many_above=100, few_below=20, index_ranges=(3, 0, 0))
    metrics = evaluate(torch.eye(3), torch.arange(3), torch.ones(3), spec)
    assert (metrics.values["many_index"], metrics.values["few_index"]) == (1, None)


@pytest.mark.parametrize(
    "row",
    [
        {"many_above": 10, "few_below": 12, "index_ranges": None},
        {"many_above": -1, "few_below": 0, "index_ranges": None},
        {"many_above": 100, "few_below": 20, "index_ranges": [50, 50]},
        {"many_above": 100, "few_below": 20, "index_ranges": [-1, 51, 50]},
        {"many_above": 100, "few_below": 20},
    ],
)
def test_a_wrong_spec_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvaluationSpec.model_validate(row)


def test_touching_thresholds_leave_medium_empty() -> None:
    groups = EvaluationSpec(many_above=10, few_below=11, index_ranges=None).groups(torch.tensor([10, 11]))
    assert [mask.tolist() for mask in groups.values()] == [[False, True], [False, False], [True, False]]


def test_probabilities_that_are_not_numbers_are_refused() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [math.nan, 0.5]])
    with pytest.raises(InputError, match=r"1 of 2 test images.*Lower the learning rate"):
        evaluate(probabilities, torch.tensor([0, 1]), torch.tensor([5, 5]), SPEC)


def metrics_of(overall: float, few: float | None) -> Metrics:
    return Metrics({"overall": overall, "few": few}, {"few": 0 if few is None else 3}, (overall, few))


def test_summarize_divides_the_variance_by_n_minus_one() -> None:
    summary = summarize([metrics_of(0.5, 0.1), metrics_of(0.7, 0.2), metrics_of(0.9, 0.6)])
    assert summary["overall"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.2), "n": 3}
    spread = math.sqrt(((0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2) / 2)
    assert summary["few"] == {"mean": pytest.approx(0.3), "std": pytest.approx(spread), "n": 3, "classes": 3}


def test_one_seed_has_no_spread_and_an_empty_group_no_mean() -> None:
    summary = summarize([metrics_of(0.5, None)])
    assert summary["overall"] == {"mean": 0.5, "std": None, "n": 1}
    assert summary["few"] == {"mean": None, "std": None, "n": 1, "classes": 0}


def test_the_document_keeps_seeds_apart_and_averages_classes() -> None:
    document = metrics_document({3: metrics_of(0.5, None), 4: metrics_of(0.7, None)})
    assert document["per_class"] == [pytest.approx(0.6), None]
    assert list(document["seeds"]) == ["3", "4"]
    assert document["seeds"]["4"] == {"overall": 0.7, "few": None, "per_class": (0.7, None)}


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    predictions = Predictions(("7", "näher/ä b.png"), torch.tensor([1, 0]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    save_predictions(predictions, tmp_path / "one.safetensors")
    save_predictions(predictions, tmp_path / "two.safetensors")
    loaded = load_predictions(tmp_path / "one.safetensors")
    assert loaded.ids == predictions.ids
    assert loaded.labels.equal(predictions.labels) and loaded.labels.dtype == torch.int64
    assert loaded.probabilities.equal(predictions.probabilities) and loaded.probabilities.dtype == torch.float32
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
