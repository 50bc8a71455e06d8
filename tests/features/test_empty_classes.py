"""Classes without training images are never predicted, whatever the features."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.features.empty_classes import ruled_out
from longtail.models.classifier import Classifier

WEIGHT = torch.arange(12.0).reshape(4, 3)


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=3, max_size=3))
def test_empty_classes_have_no_share(features: list[float]) -> None:
    classifier = ruled_out(Classifier(WEIGHT, torch.ones(4)), torch.tensor([5, 0, 1, 0]))
    logits = classifier(torch.tensor([features]))
    assert logits.isfinite().all()
    assert logits.softmax(1)[0, [1, 3]].tolist() == [0.0, 0.0]
    assert logits.argmax(1).item() in (0, 2)


def test_other_classes_keep_their_bits() -> None:
    classifier = Classifier(WEIGHT, torch.ones(4), power=0.5, unit_norm=True)
    result = ruled_out(classifier, torch.tensor([5, 0, 1, 2]))
    kept = [0, 2, 3]
    assert torch.equal(result.weight[kept], WEIGHT[kept])
    assert torch.equal(result.bias[kept], torch.ones(3))
    assert (result.power, result.unit_norm) == (0.5, True)
    assert torch.equal(classifier.bias, torch.ones(4))
