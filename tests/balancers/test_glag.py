"""GLAG's stage two: its loss in plain loops, its switches, its memory of beta, and what it does for the tail."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from banks import COUNTS, CPU, biased_network, copied, make_bank, make_plan, make_run, same
from longtail.balancers.glag import (
    GLAG,
    Confidence,
    Distillation,
    GeneratedBatch,
    GeneratedBatches,
    GLAGStep,
    distillation_loss,
)
from longtail.features.bank import FeatureBank
from longtail.features.scaled_classifier import LearningRates
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier, CosineClassifier
from longtail.models.network import Network
from longtail.spec import InputError
from longtail.training.loop import History, Run

ADAPTIVE: dict[str, Any] = {
    "compare": "previous",
    "momentum": 0.5,
    "maximum": 0.9,
    "rule": {"name": "sign", "step": 0.05, "tolerance": 0.01},
}
DISTILLATION = {"temperature": 2.0, "alpha": {"form": "convex", "s": 1.0, "c": 2.0}}
GENERATION = {
    "tukey": 0.9,
    "statistics": "transformed",
    "support": 2,
    "gamma": 0.0,
    "gamma_form": "ones",
    "clamp": False,
    "epoch_rows": "union",
}
NO_DRAWS = torch.Generator()


def _spec(**changes: Any) -> GLAG:
    """A row; a nested key is changed by `generation__tukey=1.0`."""
    row: dict[str, Any] = {
        "beta_0": 0.6,
        "adaptive": ADAPTIVE,
        "head_classes": {"name": "many_shot", "above": 15},
        "generation": GENERATION,
        "distillation": DISTILLATION,
        "lr_factors": {"fc": 0.2, "lws": 1.0},
        "plan": make_plan().model_dump(),
    }
    for key, value in changes.items():
        first, _, second = key.partition("__")
        row[first] = {**row[first], second: value} if second else value
    return GLAG.model_validate(row)


def _recall(classifier: Classifier, bank: FeatureBank) -> list[float]:
    guesses = classifier(bank.val_features.float()).argmax(1)
    return [(guesses[bank.val_labels == k] == k).float().mean().item() for k in range(len(bank.class_counts))]


def _softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [p / math.fsum(powers) for p in powers]


def _teaching(pupil: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    """T^2 KL(teacher || pupil), the mean over rows."""
    total = 0.0
    for z, h in zip(pupil, teacher, strict=True):
        p, q = _softmax(z, temperature), _softmax(h, temperature)
        total += math.fsum(b * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(pupil)


@given(st.integers(1, 6), st.integers(2, 5), st.floats(0.5, 5), st.integers(0, 99))
def test_distillation_loss(rows: int, classes: int, temperature: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    pupil, teacher = (3 * torch.randn((rows, classes), generator=draws, dtype=torch.float64) for _ in range(2))
    expected = _teaching(pupil.tolist(), teacher.tolist(), temperature)
    assert distillation_loss(pupil, teacher, temperature).item() == pytest.approx(expected, abs=1e-9)
    pupil.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher, temperature), (pupil,))


def test_an_equal_teacher_or_none_costs_nothing() -> None:
    logits = torch.randn((4, 3), generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(logits[:0], logits[:0], 2.0).item() == 0


def _step(distillation: bool = True, fc: float = 0.2, lws: float = 1.0, unit_norm: bool = False) -> GLAGStep:
    draws = torch.Generator().manual_seed(3)
    weight, bias = torch.randn((5, 4), generator=draws).double(), torch.randn(5, generator=draws).double()
    teacher = Classifier(weight, bias, unit_norm=unit_norm)
    return GLAGStep(
        teacher, 0.9, LearningRates(fc=fc, lws=lws), Distillation.model_validate(DISTILLATION) if distillation else None
    )


def _batch(head_rows: list[int]) -> GeneratedBatch:
    draws = torch.Generator().manual_seed(4)
    raw, rows = torch.rand((6, 4), generator=draws).double(), torch.tensor(head_rows, dtype=torch.int64)
    return GeneratedBatch(raw**0.9, torch.tensor([0, 1, 2, 3, 4, 0]), rows, raw[rows])


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.975])
@pytest.mark.parametrize("head_rows", [[0, 5], [1, 0, 5], []])
def test_loss_is_cross_entropy_and_scheduled_distillation(progress: float, head_rows: list[int]) -> None:
    compare_loss(progress, head_rows)


def compare_loss(progress: float, head_rows: list[int]) -> None:
    """Compare eq. 11 on a batch."""
    step, batch = _step(), _batch(head_rows)
    with torch.no_grad():
        step.lws.copy_(torch.linspace(0.5, 1.5, 5))
    logits: list[list[float]] = []
    for row in batch.features.tolist():
        fc = [
            math.fsum(w * f for w, f in zip(ws, row, strict=True)) + b
            for ws, b in zip(step.weight.tolist(), step.bias.tolist(), strict=True)
        ]
        logits.append([scale * z for scale, z in zip(step.lws.tolist(), fc, strict=True)])
    ce = -math.fsum(math.log(_softmax(z, 1)[y]) for z, y in zip(logits, batch.labels.tolist(), strict=True)) / 6
    alpha = 1.0 * (2.0**progress - 1)
    teaching = 0.0
    if head_rows:
        teacher = step.teacher(batch.head_features).tolist()  # on raw features
        teaching = _teaching([logits[i] for i in head_rows], teacher, 2.0)
        assert teaching > 0.01
    loss = step(batch, progress=torch.tensor(progress), generator=NO_DRAWS)
    assert loss.item() == pytest.approx(ce + alpha * teaching)
    loss.backward()
    assert step.weight.grad is not None
    assert step.weight.grad.isfinite().all()


def test_distillation_starts_at_nothing_and_grows() -> None:
    batch = _batch([0, 5])
    bare = _step(distillation=False)(batch, progress=torch.tensor(0.5), generator=NO_DRAWS).item()
    losses = [_step()(batch, progress=torch.tensor(t), generator=NO_DRAWS).item() for t in (0.0, 0.3, 0.6, 0.9)]
    assert losses[0] == pytest.approx(bare)
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


@pytest.mark.parametrize(("fc", "lws"), [(0.2, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_only_the_chosen_parts_learn(fc: float, lws: float, tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    network = biased_network(bank, bias=1.0)
    teacher = network.classifier.export()
    spec = _spec(lr_factors={"fc": fc, "lws": lws})
    classifier, _ = spec.fit(bank, network, tiny_split, make_run())
    scale = (classifier.weight * teacher.weight).sum(1) / teacher.weight.square().sum(1)
    only_scaled = torch.allclose(classifier.weight, scale[:, None] * teacher.weight, atol=1e-5)
    assert only_scaled == (fc == 0)
    if not fc:
        assert torch.allclose(classifier.bias, scale * teacher.bias, atol=1e-4)  # the bias is scaled too
        assert (scale - 1).abs().max() > 1e-3
    step = _step(fc=fc, lws=lws)
    factors = {id(parameter): group["lr_factor"] for group in step.groups() for parameter in group["params"]}
    expected = {id(step.weight): fc, id(step.bias): fc, id(step.lws): lws}
    assert factors == {key: factor for key, factor in expected.items() if factor}


def test_factors_of_the_learning_rate(tiny_split: LongTailSplit) -> None:
    compare_first_step(tiny_split)


def compare_first_step(split: LongTailSplit) -> None:
    """Compare the classifier after one step of plain SGD on a whole union with -lr times factor times gradient."""
    bank, fc, lws, lr = make_bank(counts=(6, 4, 2), dim=4), 0.2, 1.0, 0.05
    network = biased_network(bank, bias=1.0)
    heads, beta = torch.tensor([True, False, False]), torch.tensor([0.0, 0.6, 0.6], dtype=torch.float64)
    plain = {"epochs": 1, "batch_size": 18, "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    spec = _spec(
        plan=make_plan(**plain).model_dump(),
        lr_factors={"fc": fc, "lws": lws},
        head_classes={"name": "many_shot", "above": 5},
        adaptive=False,
    )
    confidence = Confidence(beta, beta, beta)
    ((batch,),) = GeneratedBatches(bank, spec.generation, heads, confidence, 18, make_run().seed, CPU).epoch(0)
    classifier, _ = spec.fit(bank, network, split, make_run())

    before = network.classifier.export()
    weight, bias = before.weight.tolist(), before.bias.tolist()
    slopes, levels, scales = [[0.0] * 4 for _ in range(3)], [0.0] * 3, [0.0] * 3
    for row, label in zip(batch.features.tolist(), batch.labels.tolist(), strict=True):
        logits = [
            math.fsum(w * f for w, f in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)
        ]
        for k, p in enumerate(_softmax(logits, 1)):
            error = (p - (k == label)) / len(batch.labels)
            slopes[k] = [slope + error * f for slope, f in zip(slopes[k], row, strict=True)]
            levels[k] += error
            scales[k] += error * logits[k]
    for k in range(3):  # lws is 1 at first
        scale = 1 - lr * lws * scales[k]
        expected = [scale * (w - lr * fc * slope) for w, slope in zip(weight[k], slopes[k], strict=True)]
        assert classifier.weight[k].tolist() == pytest.approx(expected, abs=2e-6)
        assert float(classifier.bias[k]) == pytest.approx(scale * (bias[k] - lr * fc * levels[k]), abs=2e-6)
        assert abs(scales[k]) > 1e-3


@pytest.mark.parametrize("unit_norm", [False, True])
def test_exported_classifier_gives_the_steps_logits_on_raw_features(unit_norm: bool) -> None:
    compare_export(unit_norm)


def compare_export(unit_norm: bool) -> None:
    """Compare the classifier that is returned, on raw features, with what was trained."""
    step, batch = _step(unit_norm=unit_norm), _batch([0, 5])
    with torch.no_grad():
        step.lws.copy_(torch.linspace(0.5, 1.5, 5))
        step.weight.add_(0.1)
    raw = _batch(list(range(6))).head_features
    expected = F.cross_entropy(step.export()(raw), batch.labels).item()
    found = step(batch, progress=torch.tensor(0.0), generator=NO_DRAWS).item()
    assert found == pytest.approx(expected)
    assert step.export().power == 0.9


def test_separable_features_are_told_apart(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    spec = _spec(plan=make_plan(epochs=20).model_dump(), lr_factors={"fc": 1.0, "lws": 1.0}, beta_0=0.2)
    classifier, history = spec.fit(bank, biased_network(bank, 1.0), tiny_split, make_run())
    assert _recall(classifier, bank) == [1.0] * 5
    assert history[-1]["val_accuracy"] == 1.0


def test_few_shot_rises_above_a_biased_classifier(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.5, val_per_class=20)
    network = biased_network(bank, bias=3.0)
    before = _recall(network.classifier.export(), bank)
    spec = _spec(plan=make_plan(epochs=30).model_dump(), lr_factors={"fc": 1.0, "lws": 1.0})
    after = _recall(spec.fit(bank, network, tiny_split, make_run())[0], bank)
    assert sum(before[3:]) < 0.8
    assert sum(after[3:]) > sum(before[3:]) + 1


def test_distillation_holds_the_head(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.6)
    network = biased_network(bank, bias=1.0)
    teacher = network.classifier.export()
    strong = {"temperature": 2.0, "alpha": {"form": "convex", "s": 20.0, "c": 2.0}}
    plan = make_plan(epochs=20).model_dump()
    heads = bank.features[0].float()[bank.class_counts[bank.labels] > 15]
    goal = (teacher(heads) / 2).softmax(1)
    distance = []
    for distillation in (False, strong):
        classifier, _ = _spec(distillation=distillation, plan=plan).fit(bank, network, tiny_split, make_run())
        distance.append(F.kl_div((classifier(heads) / 2).log_softmax(1), goal, reduction="batchmean").item())
    assert distance[1] < 0.8 * distance[0]


@pytest.mark.parametrize(
    "change",
    [
        {"beta_0": 0.4},
        {"adaptive": False},
        {"adaptive__compare": "stage1"},
        {"adaptive__momentum": 0.0},
        {"adaptive__rule": {"name": "proportional", "kappa": 1.0}},
        {"head_classes": {"name": "largest"}},
        {"generation__tukey": 1.0},
        {"generation__statistics": "raw"},
        {"generation__support": 1},
        {"generation__gamma": 0.1},
        {"generation__epoch_rows": "original"},
        {"distillation": False},
        {"distillation__temperature": 1.0},
        {"distillation__alpha": {"form": "linear", "s": 1.0, "c": 1.0}},
        {"lr_factors__fc": 0.1},
        {"lr_factors__lws": 0.5},
    ],
)
def test_every_switch_changes_the_result(change: dict[str, Any], tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.6)
    network = biased_network(bank, bias=0.5)
    weights = [spec.fit(bank, network, tiny_split, make_run())[0].weight for spec in (_spec(), _spec(**change))]
    assert not torch.equal(weights[0], weights[1])


def test_history_shows_beta_per_class(tiny_split: LongTailSplit) -> None:
    bank, rows = make_bank(spread=0.6), list[History]()
    network = biased_network(bank, bias=0.5)
    _, history = _spec().fit(bank, network, tiny_split, make_run(log=rows.append))
    betas = torch.tensor([row["beta"] for row in history])
    assert rows == history
    assert betas.shape == (6, len(COUNTS))
    assert (betas[:, :2] == 0).all()  # head classes borrow nothing
    assert ((betas[:, 2:] >= 0) & (betas[:, 2:] <= 0.9)).all()
    assert (betas[-1, 2:] != 0.6).any()
    _, fixed = _spec(adaptive=False).fit(bank, network, tiny_split, make_run())
    assert all(row["beta"] == [0.0, 0.0, 0.6, 0.6, 0.6] for row in fixed)


def test_generated_features_lie_nearer_to_their_class_than_the_neighbours_do(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.2)
    spec = _spec(beta_0=0.3, adaptive=False)
    _, history = spec.fit(bank, biased_network(bank, bias=0.5), tiny_split, make_run())
    drawn = spec.generated(bank, history, make_run())
    assert torch.bincount(drawn["labels"]).tolist() == [0, 0, 150, 150, 150]
    nearest = torch.cdist(drawn["features"].float(), bank.class_means).argmin(1)
    assert (nearest == drawn["labels"]).float().mean() > 0.9
    assert torch.equal(drawn["features"], spec.generated(bank, history, make_run())["features"])
    none = _spec(head_classes={"name": "many_shot", "above": 0}).generated(bank, history, make_run())
    assert none["features"].shape == (0, 16)


@pytest.mark.parametrize("rule", [{"name": "proportional", "kappa": 0.5}, ADAPTIVE["rule"]])
def test_beta_follows_the_validation_accuracy_that_the_history_shows(
    rule: dict[str, Any], tiny_split: LongTailSplit
) -> None:
    compare_beta(rule, tiny_split)


def compare_beta(rule: dict[str, Any], split: LongTailSplit) -> None:
    """With one tail class, the mean accuracy determines the class's own: recompute the rule from the history."""
    bank = make_bank(counts=(30, 4), spread=1.5, val_per_class=10)
    kept = bank.val_labels == 1
    bank = FeatureBank(**(vars(bank) | {"val_features": bank.val_features[kept], "val_labels": bank.val_labels[kept]}))
    network = biased_network(bank, bias=1.0)
    _, history = _spec(adaptive={**ADAPTIVE, "rule": rule}).fit(bank, network, split, make_run())
    beta, average = 0.6, _recall(network.classifier.export(), bank)[1]
    for done, row in enumerate(history, 1):
        accuracy = row["val_accuracy"]
        assert isinstance(accuracy, float)
        difference = 0.5 * average + 0.5 * accuracy - average
        if rule["name"] == "proportional":
            beta += 0.5 * difference
        elif abs(difference) > 0.01:
            beta += math.copysign(0.05 * (1 - done / 6), difference)
        beta, average = min(max(beta, 0.0), 0.9), average + difference
        assert row["beta"] == [0.0, pytest.approx(beta)]
    assert beta != pytest.approx(0.6)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_after", [0, 2, 4])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    killed_after: int, tiny_split: LongTailSplit, tmp_path: Path
) -> None:
    bank = make_bank(spread=0.6)
    network = biased_network(bank, bias=0.5)
    whole, history = _spec().fit(bank, network, tiny_split, make_run())

    def killer(row: History) -> None:
        if row["epoch"] == killed_after:
            raise _KilledError

    def run(**changes: Any) -> Run:
        return make_run(checkpoint=tmp_path / "c.pt", **changes)

    with pytest.raises(_KilledError):
        _spec().fit(bank, network, tiny_split, run(log=killer))
    rows: list[History] = []
    resumed, again = _spec().fit(bank, network, tiny_split, run(log=rows.append))
    assert [row["epoch"] for row in rows] == list(range(killed_after + 1, 6))
    assert again == history
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_equal_seeds_give_equal_bits(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.6)
    network = biased_network(bank, bias=0.5)
    one, two, other = (_spec().fit(bank, network, tiny_split, make_run(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0].weight, two[0].weight)
    assert one[1] == two[1]
    assert not torch.equal(one[0].weight, other[0].weight)


def test_bank_and_network_stay(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    bank = make_bank()
    network = tiny_network.freeze()
    before, weights = copied(bank), {k: v.clone() for k, v in network.state_dict().items()}
    _spec().fit(bank, network, tiny_split, make_run())
    assert same(bank, before)
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    assert not network.training


def test_a_cosine_classifier_teaches_with_unit_features(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    cosine = CosineClassifier(16, 5, scale=16.0)
    with torch.no_grad():
        cosine.weight.copy_(bank.class_means)
    network = Network([nn.Identity()], cosine).freeze()
    classifier, _ = _spec(plan=make_plan(epochs=10).model_dump()).fit(bank, network, tiny_split, make_run())
    assert classifier.unit_norm
    assert _recall(classifier, bank) == [1.0] * 5


def test_equal_counts_train_on_the_real_rows_alone(tiny_split: LongTailSplit) -> None:
    bank = make_bank(counts=(8, 8, 8))
    network = biased_network(bank, bias=0.0)
    heads = {"name": "many_shot", "above": 8}
    specs = [_spec(head_classes=heads, distillation=False, beta_0=beta, adaptive=False) for beta in (0.0, 0.8)]
    one, two = (spec.fit(bank, network, tiny_split, make_run())[0] for spec in specs)
    assert torch.equal(one.weight, two.weight)


def test_what_would_be_ignored_or_cannot_work_is_refused(tiny_split: LongTailSplit) -> None:
    bank, blind = make_bank(), make_bank(val_per_class=0)
    network, run = biased_network(bank, bias=0.0), make_run()
    with pytest.raises(InputError, match=r"data.validation.per_class to 20, or balancer.adaptive: false"):
        _spec().fit(blind, network, tiny_split, run)
    _, history = _spec(adaptive=False).fit(blind, network, tiny_split, run)
    assert "val_accuracy" not in history[0]
    with pytest.raises(InputError, match=r"largest class has 40 .* Lower balancer.head_classes.above"):
        _spec(head_classes={"name": "many_shot", "above": 100}).fit(bank, network, tiny_split, run)
    spoilt = copied(bank)
    spoilt.features[1, 0, 0] = -1
    with pytest.raises(InputError, match=r"balancer.generation.tukey: 1.0"):
        _spec().fit(spoilt, network, tiny_split, run)
    with pytest.raises(ValueError, match=r"nothing would be trained"):
        _spec(lr_factors={"fc": 0, "lws": 0})
    with pytest.raises(ValueError, match=r"beta_0 0.95 is above adaptive.maximum 0.9"):
        _spec(beta_0=0.95)


def test_classes_without_validation_images_keep_their_beta(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.6)
    kept = bank.val_labels != 4
    fewer = FeatureBank(**(vars(bank) | {"val_features": bank.val_features[kept], "val_labels": bank.val_labels[kept]}))
    _, history = _spec().fit(fewer, biased_network(bank, 0.5), tiny_split, make_run())
    assert all(row["beta"][4] == 0.6 for row in history)  # type: ignore[index]
