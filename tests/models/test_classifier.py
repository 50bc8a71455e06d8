"""Classifiers against their formulas in loops, and the plain matrix that stage two returns."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.models.classifier import Classifier, CosineClassifier, LinearClassifier, tukey


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full(seed: int = 0) -> Classifier:
    return Classifier(draw(4, 3, seed=seed), draw(4, seed=seed), 0.5, draw(3, seed=seed + 1), unit_norm=True)


def test_linear_classifier_starts_kaiming_normal_without_bias() -> None:
    torch.manual_seed(0)
    layer = LinearClassifier(500, 80)
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.03)
    assert not layer.bias.any()


def test_cosine_classifier_starts_with_unit_rows() -> None:
    torch.manual_seed(0)
    torch.testing.assert_close(CosineClassifier(7, 5, 1.0).weight.norm(dim=1), torch.ones(5))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.floats(0.1, 64))
def test_cosine_classifier_is_the_scaled_cosine(batch: int, dim: int, classes: int, scale: float) -> None:
    layer = CosineClassifier(dim, classes, scale).double()
    layer.weight.data = draw(classes, dim, seed=1).double()
    features = draw(batch, dim).double()
    logits = layer(features)
    for b in range(batch):
        for k in range(classes):
            f, w = features[b].tolist(), layer.weight[k].tolist()
            dot = sum(x * y for x, y in zip(f, w, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in f)) / math.sqrt(sum(y * y for y in w))
            assert float(logits[b, k].detach()) == pytest.approx(scale * cosine, abs=1e-9)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_exported_linear_classifier_gives_the_same_logits(batch: int, dim: int, classes: int) -> None:
    layer = LinearClassifier(dim, classes)
    layer.bias.data = draw(classes)
    features = draw(batch, dim)
    torch.testing.assert_close(layer.export()(features), layer(features).detach())


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.floats(0.1, 64))
def test_exported_cosine_classifier_gives_the_same_logits(batch: int, dim: int, classes: int, scale: float) -> None:
    layer = CosineClassifier(dim, classes, scale)
    layer.weight.data = 3 * draw(classes, dim, seed=1)
    features = draw(batch, dim)
    torch.testing.assert_close(layer.export()(features), layer(features).detach(), rtol=1e-5, atol=1e-5 * scale)


def test_export_is_a_copy_that_further_training_leaves_alone() -> None:
    layer = LinearClassifier(3, 2)
    exported = layer.export()
    before = exported.weight.clone()
    layer.weight.data.add_(1)
    assert torch.equal(exported.weight, before)
    assert not exported.weight.requires_grad


def test_transform_takes_power_then_centre_then_unit_norm() -> None:
    classifier, features = full(), draw(5, 3).abs()
    assert classifier.centre is not None
    result = classifier.transform(features)
    for b in range(5):
        moved = [float(features[b, d]) ** 0.5 - float(classifier.centre[d]) for d in range(3)]
        length = math.sqrt(sum(x * x for x in moved))
        assert result[b].tolist() == pytest.approx([x / length for x in moved], rel=1e-5)


def test_logits_are_weights_times_transformed_features_plus_bias() -> None:
    classifier, features = full(), draw(5, 3).abs()
    transformed = classifier.transform(features)
    logits = classifier(features)
    for b in range(5):
        for k in range(4):
            dot = sum(float(transformed[b, d] * classifier.weight[k, d]) for d in range(3))
            assert float(logits[b, k]) == pytest.approx(dot + float(classifier.bias[k]), rel=1e-5, abs=1e-6)


def test_a_stack_of_features_is_classified_row_by_row_in_its_own_dtype() -> None:
    classifier, features = full(), draw(2, 6, 3).abs().double()
    logits = classifier(features)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits[1, 4], classifier(features[1, 4][None])[0])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5), st.floats(0.05, 2))
def test_tukey_raises_to_the_power(values: list[float], power: float) -> None:
    features = torch.tensor(values, dtype=torch.float64)
    assert tukey(features, power).tolist() == pytest.approx([value**power for value in values])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_tukey_with_power_zero_is_the_logarithm(values: list[float]) -> None:
    features = torch.tensor(values, dtype=torch.float64)
    assert tukey(features, 0.0).tolist() == pytest.approx([math.log(value + 1e-6) for value in values])


def test_tukey_with_power_one_changes_nothing_negative_features_included() -> None:
    features = draw(3, 4)
    assert torch.equal(tukey(features, 1.0), features)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_tukey_refuses_negative_features(power: float) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        tukey(torch.tensor([[1.0, -1e-3]]), power)


@pytest.mark.parametrize("classifier", [full(), LinearClassifier(3, 4).export(), CosineClassifier(3, 4, 16.0).export()])
def test_a_saved_classifier_comes_back_whole(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "classifier.safetensors")
    loaded = Classifier.load(tmp_path / "classifier.safetensors")
    features = draw(6, 3).abs()
    assert torch.equal(loaded(features), classifier(features))
    assert (loaded.power, loaded.unit_norm) == (classifier.power, classifier.unit_norm)
    assert (loaded.centre is None) == (classifier.centre is None)


def test_equal_classifiers_are_equal_bytes_and_different_ones_are_not(tmp_path: Path) -> None:
    for name, classifier in {"a": full(), "b": full(), "c": full(seed=5)}.items():
        classifier.save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_cosines_are_computed_in_float32_under_autocast() -> None:
    layer, features = CosineClassifier(16, 5, 30.0), draw(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(features)
    assert logits.dtype == torch.float32
    assert logits.equal(layer(features))


def test_moved_batchnorm_statistics_survive_the_disk(tmp_path: Path) -> None:
    statistics = {"stages.0.1.running_mean": draw(3), "stages.0.1.running_var": draw(3).abs()}
    Classifier(draw(4, 3), draw(4), statistics=statistics).save(tmp_path / "moved.safetensors")
    loaded = Classifier.load(tmp_path / "moved.safetensors").statistics
    assert loaded is not None
    assert {name: value.tolist() for name, value in loaded.items()} == {n: v.tolist() for n, v in statistics.items()}
    full().save(tmp_path / "plain.safetensors")
    assert Classifier.load(tmp_path / "plain.safetensors").statistics is None
