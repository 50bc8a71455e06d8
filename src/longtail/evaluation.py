"""From probabilities of test images to the numbers of a Report: overall, many, medium, few, calibration.

Every number is a fraction in [0, 1]; percent only when printed. A class without test image is n/a: NaN in tensors,
null in JSON. So is an empty group.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtail.spec import InputError, Spec

GROUPS = ("many", "medium", "few")
BINS = 15  # of the calibration error, as in Guo et al.
BELOW_ONE = 1 - 2**-24  # the largest float32 below 1

METRICS = (
    "overall", *GROUPS, "balanced", "worst_class", "macro_f1", "ece", *(f"{group}_index" for group in GROUPS)
)  # fmt: skip


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"there is no such metric; choose one of {', '.join(METRICS)}")
    return metric


Metric = Annotated[str, AfterValidator(_known)]
Summary = dict[str, dict[str, float | int | None]]
Size = Annotated[int, Field(ge=0)]


class EvaluationSpec(Spec):
    """Which classes are many-, medium- and few-shot.

    Source    thresholds: Liu et al. (OLTR), CVPR 2019; index ranges: the released code of MiSLAS and CSA

    Args:
        many_above: a class with more training images is many-shot.
        few_below: a class with fewer training images is few-shot; the classes between are medium-shot.
        index_ranges: sizes of many, medium and few in label order, reported besides the thresholds; null for none.
    """

    many_above: int = Field(ge=0)
    few_below: int = Field(ge=0)
    index_ranges: tuple[Size, Size, Size] | None

    @model_validator(mode="after")
    def _no_class_in_two_groups(self) -> Self:
        if self.few_below > self.many_above + 1:
            raise ValueError(
                f"few_below is {self.few_below} and many_above is {self.many_above}, so a class could be both. "
                f"Set few_below to at most {self.many_above + 1}."
            )
        return self

    def check(self, num_classes: int) -> None:
        """Raise InputError unless the index ranges cover exactly K classes."""
        if self.index_ranges is not None and sum(self.index_ranges) != num_classes:
            raise InputError(
                f"evaluation.index_ranges is {list(self.index_ranges)}, which sums to {sum(self.index_ranges)}, but "
                f"the data has {num_classes} classes. Give three sizes that sum to {num_classes}, or null."
            )

    def groups(self, class_counts: Tensor) -> dict[str, Tensor]:
        """Return the groups by thresholds as (K,) bool masks: many, medium, few.

        Args:
            class_counts: (K,) training images per class.
        """
        many, few = class_counts > self.many_above, class_counts < self.few_below
        return {"many": many, "medium": ~(many | few), "few": few}

    def index_groups(self, num_classes: int) -> dict[str, Tensor]:
        """Return the groups by index ranges as (K,) bool masks; empty if no ranges are given."""
        if self.index_ranges is None:
            return {}
        self.check(num_classes)
        group_of = torch.repeat_interleave(torch.arange(3), torch.tensor(self.index_ranges))
        return {f"{name}_index": group_of == i for i, name in enumerate(GROUPS)}


@dataclass(frozen=True)
class Predictions:
    """What a method says of the test images, kept for tests of significance, promotion and serving.

    Args:
        ids: M stable image names.
        labels: (M,) int64.
        probabilities: (M, K) float32.
    """

    ids: tuple[str, ...]
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Metrics:
    """The numbers of one method and seed.

    Args:
        values: metric -> fraction in [0, 1], None for a group without classes. Metrics: overall, many, medium, few,
            balanced, worst_class, macro_f1, ece, and many_index, medium_index, few_index where ranges are given.
        classes: metric -> number of classes that it averages, for the metrics that average classes.
        per_class: K accuracies, None for a class without test image.
    """

    values: dict[str, float | None]
    classes: dict[str, int]
    per_class: tuple[float | None, ...]


def evaluate(probabilities: Tensor, labels: Tensor, class_counts: Tensor, spec: EvaluationSpec) -> Metrics:
    """Compute every metric of one method and seed.

    Args:
        probabilities: (M, K) float32, M >= 1.
        labels: (M,) int64 in [0, K).
        class_counts: (K,) training images per class.

    Returns:
        Metrics; a group is the unweighted mean of its classes' accuracies (methods.md 1.5), macro-F1 and balanced
        accuracy average the classes that have a test image.

    Raises:
        InputError: if a probability is not a finite number, or the index ranges do not sum to K.
    """
    _check_predictions(probabilities, labels, len(class_counts))
    accuracy, f1 = class_scores(probabilities, labels)
    present = ~accuracy.isnan()
    groups = spec.groups(class_counts.cpu()) | spec.index_groups(len(class_counts))
    members = {name: mask & present for name, mask in groups.items()} | {"balanced": present, "macro_f1": present}
    means = {name: _mean((f1 if name == "macro_f1" else accuracy)[mask]) for name, mask in members.items()}
    values = {
        "overall": (probabilities.argmax(1) == labels).double().mean().item(),
        **means,
        "worst_class": accuracy[present].min().item(),
        "ece": calibration_error(probabilities, labels),
    }
    per_class = tuple(None if value != value else value for value in accuracy.tolist())
    return Metrics(values, {name: int(mask.sum()) for name, mask in members.items()}, per_class)


def class_scores(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return accuracy and F1 per class, each (K,) float64, NaN for a class without test image.

    Counted per class, not read off the confusion matrix, which has 66 million cells for iNaturalist.
    """
    num_classes, predictions = probabilities.shape[1], probabilities.argmax(1)
    images, predicted, correct = (
        torch.bincount(chosen, minlength=num_classes).double()
        for chosen in (labels, predictions, labels[predictions == labels])
    )
    f1 = 2 * correct / (images + predicted)
    return correct / images, f1.where(images > 0, torch.nan)


def confusion_matrix(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Count the images of class r that are taken for class c as (K, K) int64."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # see calibration_error

    counts: Tensor = multiclass_confusion_matrix(probabilities.argmax(1), labels, probabilities.shape[1])
    return counts


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error: mean |accuracy - confidence| over 15 equal-width bins, weighted by size.

    Source    Guo et al., ICML 2017, arXiv:1706.04599
    Differs   bins are closed on the left; the last one on both sides
    """
    # Imported here: every stage reads the spec above, and torchmetrics takes 2 s to import.
    from torchmetrics.functional.classification import multiclass_calibration_error

    # torchmetrics gives a confidence of exactly 1 a sixteenth bin, and takes numbers above 1 for logits.
    probabilities = probabilities.float().clamp(0, BELOW_ONE)
    return float(multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=BINS, norm="l1"))


def summarize(per_seed: Sequence[Metrics]) -> Summary:
    """Reduce the seeds to metric -> {mean, std (ddof 1, None for one seed), n, and classes where classes are averaged}.

    Args:
        per_seed: one per seed, all of one method on one split.
    """
    return {name: _summary(per_seed, name) for name in per_seed[0].values}


def metrics_document(per_seed: Mapping[int, Metrics]) -> dict[str, Any]:
    """Return the metrics in evaluations/<method>/metrics.json: summary, per_class (mean over seeds) and seeds."""
    columns = zip(*(metrics.per_class for metrics in per_seed.values()), strict=True)
    return {
        "summary": summarize(list(per_seed.values())),
        "per_class": [None if None in column else fmean(column) for column in columns],
        "seeds": {str(seed): {**metrics.values, "per_class": metrics.per_class} for seed, metrics in per_seed.items()},
    }


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write ids (a JSON list as bytes), labels and probabilities as safetensors; equal predictions are equal bytes."""
    ids = torch.frombuffer(bytearray(json.dumps(predictions.ids).encode()), dtype=torch.uint8)
    tensors = {"ids": ids, "labels": predictions.labels, "probabilities": predictions.probabilities.float()}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_predictions(path: Path) -> Predictions:
    """Read what `save_predictions` wrote."""
    tensors = load_file(path)
    ids = json.loads(tensors["ids"].numpy().tobytes())
    return Predictions(tuple(ids), tensors["labels"], tensors["probabilities"])


def _check_predictions(probabilities: Tensor, labels: Tensor, num_classes: int) -> None:
    assert len(labels) > 0, "a split has test images"
    assert probabilities.shape == (len(labels), num_classes), (probabilities.shape, labels.shape, num_classes)
    broken = int((~probabilities.isfinite()).any(1).sum())
    if broken:
        raise InputError(
            f"The method's probabilities of {broken} of {len(labels)} test images are not finite numbers, so its "
            "training diverged. Lower the learning rate of its plan."
        )


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _summary(per_seed: Sequence[Metrics], name: str) -> dict[str, float | int | None]:
    values = [value for metrics in per_seed if (value := metrics.values[name]) is not None]
    summary: dict[str, float | int | None] = {
        "mean": fmean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
        "n": len(per_seed),
    }
    classes = per_seed[0].classes.get(name)
    return summary if classes is None else {**summary, "classes": classes}
