"""LWS: only one scale per class learns, bias included, and rare classes turn up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import oracles
from banks import biased_network, make_bank, make_plan, make_run
from longtail.balancers.lws import LWS, ScaleStep
from longtail.balancers.tau_norm import normalised
from longtail.features.batches import FeatureBatch
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier, CosineClassifier, LinearClassifier
from longtail.models.network import Network
from longtail.training.loop import History

NO_DRAWS = torch.Generator()


def _spec(**plan: Any) -> LWS:
    return LWS(sampler="class_aware", plan=make_plan(**plan))


def _step() -> ScaleStep:
    draws = torch.Generator().manual_seed(0)
    classifier = Classifier(torch.randn((4, 3), generator=draws).double(), torch.randn(4, generator=draws).double())
    step = ScaleStep(classifier)
    with torch.no_grad():
        step.scales.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    return step


def _batch() -> FeatureBatch:
    draws = torch.Generator().manual_seed(1)
    return FeatureBatch(torch.rand((6, 3), generator=draws).double(), torch.tensor([0, 1, 2, 3, 3, 0]))


def _loss(step: ScaleStep, batch: FeatureBatch) -> torch.Tensor:
    loss: torch.Tensor = step(batch, progress=torch.zeros(()), generator=NO_DRAWS)
    return loss


def test_logits_and_bias_are_scaled() -> None:
    step, batch = _step(), _batch()
    weight, bias = step.classifier.weight.tolist(), step.classifier.bias.tolist()
    losses = []
    for features, label in zip(batch.features.tolist(), batch.labels.tolist(), strict=True):
        plain = [sum(w * f for w, f in zip(weight[k], features, strict=True)) + bias[k] for k in range(4)]
        losses.append(oracles.cross_entropy([s * z for s, z in zip([0.5, 1.0, 1.5, 2.0], plain, strict=True)], label))
    assert _loss(step, batch).item() == pytest.approx(sum(losses) / 6, abs=1e-12)


def test_gradient_is_the_softmax_residual_times_the_plain_logit() -> None:
    step, batch = _step(), _batch()
    (gradient,) = torch.autograd.grad(_loss(step, batch), step.scales)
    plain = batch.features @ step.classifier.weight.T + step.classifier.bias
    residual = (step.scales * plain).softmax(1) - F.one_hot(batch.labels, 4)
    assert torch.allclose(gradient, (residual * plain).mean(0), atol=1e-12)


def test_nothing_but_the_scales_learns() -> None:
    step = _step()
    assert [name for name, _ in step.named_parameters()] == ["scales"]
    assert not step.classifier.weight.requires_grad


def test_export_predicts_what_the_step_trains() -> None:
    step, batch = _step(), _batch()
    expected = step.scales * step.classifier(batch.features)
    assert torch.allclose(step.export()(batch.features), expected, atol=1e-12)
    assert torch.equal(step.export().bias, step.scales * step.classifier.bias)


def test_fresh_scales_are_keep() -> None:
    bank = make_bank()
    keep = biased_network(bank, bias=1.0).classifier.export()
    assert torch.equal(ScaleStep(keep).export().weight, keep.weight)
    assert torch.equal(ScaleStep(keep).export().bias, keep.bias)


def test_scales_of_inverse_lengths_are_tau_normalisation() -> None:
    step = _step()
    step.classifier.bias.zero_()
    with torch.no_grad():
        step.scales.copy_(1 / step.classifier.weight.norm(dim=1))
    assert torch.allclose(step.export().weight, normalised(step.classifier, 1.0).weight)


def test_directions_stay_and_rare_classes_turn_up(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.3, val_per_class=20)
    head = LinearClassifier(16, 5)
    with torch.no_grad():  # positive logits, so that a smaller scale is a smaller logit
        head.weight.copy_(bank.class_means * (bank.class_counts[:, None] / 10) ** 0.3)
    network = Network([nn.Identity()], head).freeze()
    before = network.classifier.export()
    classifier, history = _spec(epochs=30).fit(bank, network, tiny_split, make_run())
    assert torch.allclose(F.normalize(classifier.weight), F.normalize(before.weight), atol=1e-6)
    scales = classifier.weight.norm(dim=1) / before.weight.norm(dim=1)
    assert scales[-1] > scales[0]
    guesses = [c(bank.val_features.float()).argmax(1) for c in (before, classifier)]
    hits = [(g == bank.val_labels)[bank.val_labels >= 3].sum().item() for g in guesses]
    assert hits[1] > hits[0]
    assert [row["epoch"] for row in history] == list(range(30))


def test_a_cosine_classifier_keeps_seeing_unit_features(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    network = Network([nn.Identity()], CosineClassifier(16, 5, scale=8.0)).freeze()
    classifier, _ = _spec().fit(bank, network, tiny_split, make_run())
    features = bank.val_features.float()
    assert classifier.unit_norm
    assert torch.equal(classifier.bias, torch.zeros(5))
    scales = (classifier.weight * network.classifier.export().weight).sum(1) / 64  # a scale may turn negative
    assert torch.allclose(classifier(features), scales * network.classifier(features), atol=1e-4)
    assert not torch.allclose(scales, torch.ones(5), atol=1e-3)


class _KilledError(Exception):
    pass


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    bank = make_bank()
    network = biased_network(bank, bias=1.0)
    whole, history = _spec().fit(bank, network, tiny_split, make_run())

    def killer(row: History) -> None:
        if row["epoch"] == 2:
            raise _KilledError

    with pytest.raises(_KilledError):
        _spec().fit(bank, network, tiny_split, make_run(checkpoint=tmp_path / "c.pt", log=killer))
    resumed, again = _spec().fit(bank, network, tiny_split, make_run(checkpoint=tmp_path / "c.pt"))
    assert again == history
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_a_sampler_that_is_not_balanced_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler"):
        LWS.model_validate({"sampler": "instance_balanced", "plan": make_plan().model_dump()})
