"""Each step of GLAG's stage two, switched off in our code: the comparison with the paper's formulas then fails.

Stage one's alpha(t) is switched off in tests/losses/test_gradual_balanced.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import test_balanced_union
import test_calibration
import test_confidence
import test_feature_generator
import test_glag
from mutations import fails, mutate

from longtail.balancers.confidence import Adaptation, Confidence, SignRule
from longtail.balancers.feature_generator import GeneratedBatches
from longtail.balancers.glag import GLAG, GLAGStep, distillation_loss
from longtail.features.balanced_rows import balanced_union
from longtail.features.scaled_classifier import ScaledClassifier
from longtail.features.statistics import ClassStatistics, _factor, draw_calibrated, support_sets
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier

Compare = Callable[[], None]
WithSplit = Callable[[LongTailSplit], None]
Steps = dict[str, tuple[Compare, Callable[..., Any], str, str]]

# Comparisons of a part with its formula, on numbers at which no step is idle.
statistics: Compare = partial(test_calibration.compare_statistics, [7, 4, 1], 3, 0)
support: Compare = partial(test_calibration.compare_support, [9, 8, 7, 6, 2, 2, 2, 2, 5], 2, 8, 3)
draws: Compare = partial(test_calibration.compare_moments, [9, 7, 5, 3], 3, 0.4, 0.5, "ones")
no_candidates: Compare = partial(test_calibration.compare_moments, [9, 7, 5, 3], 0, 0.7, 0.0, "ones")
generated: Compare = test_feature_generator.compare
head_rows: Compare = test_feature_generator.compare_head_rows
union: Compare = partial(test_balanced_union.compare, [12, 7, 5, 2], 0b0010, 0)
loss: Compare = partial(test_glag.compare_loss, 0.25, [1, 0, 5])
loss_without_heads: Compare = partial(test_glag.compare_loss, 0.25, [])
export: Compare = partial(test_glag.compare_export, False)
CHANGES = [0.4, 0.9, 0.6, 0.5, 0.51, 0.9, 0.2, 0.2]
sign: Compare = partial(test_confidence.compare_training, CHANGES, 20, "previous", "sign", 0.5)
best: Compare = partial(test_confidence.compare_training, [0.4, 0.9, 0.1, 0.5, 0.5], 20, "best", "sign", 0.5)
clipped: Compare = partial(test_confidence.compare_training, [0.0, *[1.0] * 30], 20, "stage1", "sign", 0.0)
few_images: Compare = partial(test_confidence.compare_case, "half an image", 0.6, 0.4, 0.418, 1000, False, 0.6375)
small_change: Compare = partial(test_confidence.compare_case, "within tolerance", 0.6, 0.4, 0.418, 20, False, 0.6)
head_beta: Compare = partial(test_confidence.compare_case, "head class", 0.0, 0.4, 0.8, 20, True, 0.0)
blind: Compare = test_confidence.test_a_class_without_validation_images_keeps_beta_under_the_proportional_rule_too
start: Compare = test_confidence.test_start_gives_beta_to_tail_classes_only

TOLERANCE = "(0.5 / images.double()).clamp(max=self.tolerance)"

OF_THE_UNION: Steps = {
    "Tukey's transform of features": (generated, GeneratedBatches._rows, "self.spec.tukey", "1.0"),
    "Tukey's transform of statistics": (generated, GeneratedBatches._statistics, ", power)", ", 1.0)"),
    "Tukey's transform at test time": (export, Classifier.transform, "tukey(features, self.power)", "features"),
    "a fresh view each epoch": (generated, GeneratedBatches.epoch, "epoch % len(self.bank.features)", "0"),
    "counts to n_max": (union, balanced_union, "largest - len(rows)", "0 * len(rows)"),
    "as many draws of each sample": (union, balanced_union, "shuffled[missing % len(rows)]", "shuffled[0 * missing]"),
    "head classes draw from the class": (union, balanced_union, "if head else", "if False else"),
    "tail classes draw from samples": (union, balanced_union, "if head else", "if True else"),
    "spread of a head class": (generated, GeneratedBatches._features, " + statistics.noise(classes, draws)", ""),
    "mean of a head class": (generated, GeneratedBatches._features, "statistics.means[classes] + ", ""),
    "beta of the class": (generated, GeneratedBatches._calibrated, "beta[chunk.labels]", "beta[0 * chunk.labels + 2]"),
    "size of the support": (generated, GeneratedBatches._supports, "self.spec.support", "1"),
    "support of the sample": (
        generated,
        GeneratedBatches._calibrated,
        "supports.classes[sources]",
        "supports.classes[0 * sources]",
    ),
    "gamma of the row": (generated, GeneratedBatches._calibrated, "self.spec.gamma,", "0.0,"),
}
OF_CALIBRATION: Steps = {
    "mean of a class (eq. 5)": (statistics, ClassStatistics.of, "rows.mean(0)", "rows[0]"),
    "covariance about the mean (eq. 6)": (statistics, ClassStatistics.of, "_factor(rows - means[-1])", "_factor(rows)"),
    "covariance divided by n - 1 (eq. 6)": (statistics, _factor, "max(len(centred) - 1, 1)", "len(centred)"),
    "all of the covariance": (statistics, _factor, 'torch.linalg.qr(scaled, mode="r").R', "scaled[: scaled.shape[1]]"),
    "never the own class (eq. 7)": (support, support_sets, "counts > counts", "counts >= counts"),
    "only larger classes (eq. 7)": (support, support_sets, "counts > counts", "counts != counts"),
    "neighbours of the sample (eq. 7)": (support, support_sets, "cdist(features,", "cdist(0 * features,"),
    "the nearest classes (eq. 7)": (
        support,
        support_sets,
        "nearest.indices[:, :size]",
        "nearest.indices[:, 1 : size + 1]",
    ),
    "weights by distance (eq. 10)": (support, support_sets, "chosen.clamp(min=1e-8)", "1.0"),
    "weights by count (eq. 10)": (support, support_sets, "counts[classes] / chosen", "1 / chosen"),
    "weights that sum to one (eq. 10)": (
        support,
        support_sets,
        "weights / weights.sum(1, keepdim=True).clamp(min=1e-30)",
        "weights",
    ),
    "mean of the support (eq. 8)": (draws, draw_calibrated, "weights * statistics.means[classes] + ", ""),
    "weighted mean of the support (eq. 8)": (
        draws,
        draw_calibrated,
        "weights * statistics.means",
        "0.5 * statistics.means",
    ),
    "own share of the mean (eq. 8)": (draws, draw_calibrated, "(1 - b) * (features + ", "(features + (1 - b) * "),
    "own covariance (eq. 9)": (draws, draw_calibrated, "features + statistics.noise(labels, generator)", "features"),
    "own share of the covariance (eq. 9)": (
        draws,
        draw_calibrated,
        "(features + statistics.noise(labels, generator))",
        "features + statistics.noise(labels, generator)",
    ),
    "covariance of the support (eq. 9)": (
        draws,
        draw_calibrated,
        " + weights.sqrt() * statistics.noise(classes, generator)",
        "",
    ),
    "weighted covariance of the support (eq. 9)": (draws, draw_calibrated, "weights.sqrt()", "1.0"),
    "gamma (eq. 9)": (draws, draw_calibrated, "if gamma:", "if False:"),
    "gamma is a variance (eq. 9)": (draws, draw_calibrated, "gamma**0.5", "gamma"),
    "gamma on every entry (eq. 9)": (draws, draw_calibrated, 'if gamma_form == "ones"', "if False"),
    "no support, no confidence": (no_candidates, draw_calibrated, "weights.sum(1) > 0", "weights.sum(1) >= 0"),
}
OF_THE_LOSS: Steps = {
    "distillation": (loss, GLAGStep.forward, "return loss + self", "return loss + 0 * self"),
    "alpha(t)": (loss, GLAGStep.forward, ".alpha.alpha(progress).to(loss.dtype)", ".temperature / 2"),
    "teacher on raw features": (
        loss,
        GLAGStep.forward,
        "self.teacher(batch.head_features)",
        "self.teacher(batch.features[batch.head_rows])",
    ),
    "head rows only": (
        loss,
        GLAGStep.forward,
        "logits[batch.head_rows], self.teacher(batch.head_features)",
        "logits, self.teacher(batch.features ** (1 / self.power))",
    ),
    "a batch without head rows": (loss_without_heads, distillation_loss, "if not len(logits):", "if False:"),
    "real rows of head classes": (head_rows, GeneratedBatches._batch, " & ~part.is_drawn", ""),
    "rows of head classes": (head_rows, GeneratedBatches._batch, "self.is_head[part.labels] & ", ""),
    "raw features for the teacher": (
        head_rows,
        GeneratedBatches._batch,
        "view[part.sources[head_rows]].float()",
        "features[head_rows]",
    ),
    "T^2": (loss, distillation_loss, "temperature**2 * ", ""),
    "temperature of the pupil": (loss, distillation_loss, "(logits / temperature)", "logits"),
    "temperature of the teacher": (loss, distillation_loss, "(teacher / temperature)", "teacher"),
    "from teacher to pupil": (loss, distillation_loss, "kl_div(pupil, goal,", "kl_div(goal, pupil,"),
    "mean over rows": (loss, distillation_loss, "batchmean", "sum"),
    "learnable weight scaling": (loss, ScaledClassifier.logits, "self.lws * ", ""),
    "scaling of the weight that is returned": (export, ScaledClassifier.export, "self.lws[:, None] * ", ""),
    "scaling of the bias that is returned": (export, ScaledClassifier.export, "self.lws * ", ""),
}
OF_BETA: Steps = {
    "increase": (sign, SignRule.change, "(difference > tolerance).double()", "0"),
    "decrease": (sign, SignRule.change, " - (difference < -tolerance).double()", ""),
    "decay of the step": (sign, SignRule.change, " * (1 - done)", ""),
    "tolerance": (small_change, SignRule.change, TOLERANCE, "0.0"),
    "tolerance of half an image": (few_images, SignRule.change, TOLERANCE, "self.tolerance"),
    "running average": (sign, Adaptation.updated, "self.momentum * old.average + (1 - self.momentum) *", ""),
    "comparison with the previous epoch": (
        sign,
        Adaptation.updated,
        '"previous": average',
        '"previous": old.reference',
    ),
    "comparison with the best epoch": (best, Adaptation.updated, "torch.maximum(old.reference, average)", "average"),
    "clip": (clipped, Adaptation.updated, ".clamp(0, self.maximum)", ""),
    "head classes keep theirs": (head_beta, Adaptation.updated, "is_head | ", ""),
    "classes without validation images keep theirs": (blind, Adaptation.updated, " | difference.isnan()", ""),
    "head classes have none": (start, Confidence.start, ".masked_fill(is_head, 0.0)", ""),
}
STEPS = OF_THE_UNION | OF_CALIBRATION | OF_THE_LOSS | OF_BETA

first_step: WithSplit = test_glag.compare_first_step
beta: WithSplit = partial(test_glag.compare_beta, test_glag.ADAPTIVE["rule"])
in_proportion: WithSplit = partial(test_glag.compare_beta, {"name": "proportional", "kappa": 0.5})
FITTED: dict[str, tuple[WithSplit, Callable[..., Any], str, str]] = {
    "factor of fc": (first_step, ScaledClassifier.groups, "self.bias], self.lr_factors.fc", "self.bias], 1.0"),
    "factor of lws": (first_step, ScaledClassifier.groups, "[self.lws], self.lr_factors.lws", "[self.lws], 0.2"),
    "start from stage one": (first_step, ScaledClassifier.__init__, "start.weight.clone()", "0 * start.weight"),
    "beta_0": (beta, GLAG.fit, "self.beta_0", "0.4"),
    "accuracy of stage one": (
        in_proportion,
        GLAG.fit,
        "validation_accuracies(teacher, bank, run.device)",
        "0.0 * images.double()",
    ),
    "update of beta": (beta, GLAG.fit, "batches.confidence = ", "_ = "),
    "share of epochs done": (beta, GLAG.fit, "(epoch + 1) / self.plan.epochs", "epoch / self.plan.epochs"),
}


@pytest.mark.parametrize(("compare", "step", "old", "new"), STEPS.values(), ids=STEPS)
def test_the_oracle_notices_when_a_step_is_switched_off(
    compare: Compare, step: Callable[..., Any], old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare()
    mutate(monkeypatch, step, old, new)
    assert fails(compare)


@pytest.mark.parametrize(("compare", "step", "old", "new"), FITTED.values(), ids=FITTED)
def test_the_oracle_of_a_fit_notices_when_a_step_is_switched_off(
    compare: WithSplit,
    step: Callable[..., Any],
    old: str,
    new: str,
    tiny_split: LongTailSplit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare(tiny_split)
    mutate(monkeypatch, step, old, new)
    assert fails(partial(compare, tiny_split))
