"""A classifier that starts from stage one: its parts, their learning rates, and what it exports."""

import pytest
import torch

from longtail.features.scaled_classifier import LearningRates, ScaledClassifier
from longtail.models.classifier import Classifier


def _scaled(unit_norm: bool = False, fc: float = 0.2, lws: float = 1.0) -> ScaledClassifier:
    draws = torch.Generator().manual_seed(0)
    weight, bias = torch.randn((4, 3), generator=draws).double(), torch.randn(4, generator=draws).double()
    return ScaledClassifier(Classifier(weight, bias, unit_norm=unit_norm), LearningRates(fc=fc, lws=lws))


@pytest.mark.parametrize("unit_norm", [False, True])
def test_it_starts_as_the_classifier_of_stage_one(unit_norm: bool) -> None:
    scaled, features = _scaled(unit_norm), torch.rand((5, 3), generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(scaled.logits(features), scaled.start(features))
    assert torch.equal(scaled.export().weight, scaled.start.weight)
    assert torch.equal(scaled.export().bias, scaled.start.bias)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_scales_multiply_weight_and_bias(unit_norm: bool) -> None:
    scaled, features = _scaled(unit_norm), torch.rand((5, 3), generator=torch.Generator().manual_seed(1)).double()
    scales = [0.5, 1.0, 1.5, 2.0]
    with torch.no_grad():
        scaled.lws.copy_(torch.tensor(scales))
    expected = torch.stack([s * column for s, column in zip(scales, scaled.start(features).T, strict=True)], dim=1)
    assert torch.allclose(scaled.logits(features), expected, atol=1e-12)
    assert torch.allclose(scaled.export()(features), expected, atol=1e-12)
    assert scaled.export().unit_norm == unit_norm


def test_training_leaves_the_start_alone() -> None:
    scaled = _scaled()
    before = scaled.start.weight.clone()
    with torch.no_grad():
        scaled.weight.zero_()
    assert torch.equal(scaled.start.weight, before)


@pytest.mark.parametrize(("fc", "lws", "factors"), [(0.2, 1.0, [0.2, 1.0]), (0.0, 1.0, [1.0]), (0.2, 0.0, [0.2])])
def test_a_factor_of_zero_freezes_a_part(fc: float, lws: float, factors: list[float]) -> None:
    scaled = _scaled(fc=fc, lws=lws)
    assert [group["lr_factor"] for group in scaled.groups()] == factors
    assert scaled.weight.requires_grad == scaled.bias.requires_grad == (fc > 0)
    assert scaled.lws.requires_grad == (lws > 0)


def test_something_must_learn() -> None:
    with pytest.raises(ValueError, match="nothing would be trained"):
        LearningRates(fc=0, lws=0)
