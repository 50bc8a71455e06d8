"""Batches of bank features: views in turn, classes equally often; validation accuracy in plain loops."""

import math

import pytest
import torch

from banks import COUNTS, CPU, biased_network, copied, make_bank, make_plan, same
from longtail.features.bank import FeatureBank
from longtail.features.batches import FeatureBatches, validation_accuracies, validation_row
from longtail.loading.sampling import Balanced
from longtail.models.classifier import Classifier


def _epoch(
    bank: FeatureBank, epoch: int, seed: int = 0, sampler: str = "class_balanced"
) -> tuple[torch.Tensor, torch.Tensor]:
    batches = FeatureBatches(bank, sampler, make_plan(batch_size=10), seed)  # type: ignore[arg-type]
    parts = [batch for (batch,) in batches.epoch(epoch)]
    assert [len(part.labels) for part in parts] == [10] * 7 + [1]
    return torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts])


@pytest.mark.parametrize("sampler", ["class_balanced", "class_aware"])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_every_row_comes_from_the_view_of_the_epoch(sampler: str, epoch: int) -> None:
    bank = make_bank(views=3)
    features, labels = _epoch(bank, epoch, sampler=sampler)
    view = bank.features[epoch % 3].float()
    for row, label in zip(features, labels, strict=True):
        assert ((view == row).all(1) & (bank.labels == label)).any()


@pytest.mark.parametrize("sampler", ["class_balanced", "class_aware"])
def test_classes_come_equally_often(sampler: str) -> None:
    bank = make_bank()
    labels = torch.cat([_epoch(bank, epoch, sampler=sampler)[1] for epoch in range(30)])
    share = torch.bincount(labels, minlength=5) / len(labels)
    assert share.tolist() == pytest.approx([0.2] * 5, abs=0.05)


def test_a_balanced_epoch_has_n_max_rows_of_each_class() -> None:
    bank, sampler = make_bank(), Balanced(name="class_aware", epoch="balanced")
    labels = torch.cat([b.labels for (b,) in FeatureBatches(bank, sampler, make_plan(batch_size=10), 0).epoch(0)])
    assert len(labels) == max(COUNTS) * len(COUNTS)


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    bank = make_bank()
    before = copied(bank)
    one, again, later, other = (_epoch(bank, *which)[1] for which in ((1, 0), (1, 0), (4, 0), (1, 1)))
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    assert not torch.equal(one, other)
    assert same(bank, before)


def test_validation_accuracies() -> None:
    bank = make_bank(spread=1.0, val_per_class=7)
    classifier = biased_network(bank, bias=0.3).classifier.export()
    logits = classifier(bank.val_features.float())
    hits = [[] for _ in COUNTS]  # type: list[list[bool]]
    for row, label in zip(logits.tolist(), bank.val_labels.tolist(), strict=True):
        hits[label].append(row.index(max(row)) == label)
    expected = [sum(hit) / len(hit) for hit in hits]
    assert 0 < sum(expected) < 5
    accuracies = validation_accuracies(classifier, bank, CPU)
    assert accuracies.tolist() == pytest.approx(expected)
    assert validation_row(accuracies) == {"val_accuracy": pytest.approx(sum(expected) / 5)}


def test_classes_without_validation_images_are_left_out() -> None:
    bank = make_bank()
    kept = bank.val_labels != 2
    fewer = FeatureBank(**(vars(bank) | {"val_features": bank.val_features[kept], "val_labels": bank.val_labels[kept]}))
    blind = Classifier(torch.zeros(5, 16), torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]))  # always says 4
    accuracies = validation_accuracies(blind, fewer, CPU)
    assert [math.isnan(a) for a in accuracies.tolist()] == [False, False, True, False, False]
    assert validation_row(accuracies) == {"val_accuracy": 0.25}


def test_without_validation_images_there_is_no_accuracy() -> None:
    bank = make_bank(val_per_class=0)
    assert validation_row(validation_accuracies(biased_network(bank, 0).classifier.export(), bank, CPU)) == {}
