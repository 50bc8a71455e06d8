"""A network on disk comes back as it was; a scale that stood in the loss comes back with it."""

from pathlib import Path

import pytest
import torch

import tiny
from longtail.models import NetworkSpec
from longtail.models.saved import NetworkDescription, save_weights
from longtail.seeding import generator

IMAGES = torch.rand(4, 3, 8, 8, generator=generator(0, "images"))


def described(classifier: str) -> NetworkDescription:
    row = {"backbone": "digits_cnn", "classifier": classifier, "scale": 1.0, "weights": None}
    return NetworkDescription.of(NetworkSpec.model_validate(row), tiny.make_split())


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_a_saved_network_gives_the_same_logits(classifier: str, tmp_path: Path) -> None:
    description = described(classifier)
    network = description.build(3).eval()
    expected = network(IMAGES)
    description.save(tmp_path)
    save_weights(network, tmp_path / "weights.safetensors")
    loaded = NetworkDescription.load(tmp_path).load_weights(tmp_path / "weights.safetensors").eval()
    assert loaded(IMAGES).equal(expected)


def test_the_scale_of_the_loss_stays_with_the_classifier() -> None:
    """Probabilities of bare cosines are nearly uniform; those that the loss saw are of 30 times as much."""
    description = described("cosine")
    cosines = description.build(3).eval()(IMAGES)
    scaled = description.scaled(30.0).build(3).eval()
    torch.testing.assert_close(scaled(IMAGES), 30 * cosines)
    torch.testing.assert_close(scaled.classifier.export()(scaled.features(IMAGES)), 30 * cosines)
    assert description.scaled(1.0) == description
