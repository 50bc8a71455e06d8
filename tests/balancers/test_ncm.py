"""Nearest class mean: distances in plain loops, in three spaces and two metrics, and classes of one image or none."""

import math
from typing import Any

import pytest
import torch

from banks import biased_network, make_bank, make_run
from longtail.balancers.ncm import NCM
from longtail.features.bank import FeatureBank
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier

SPACES, METRICS = ("raw", "unit", "centred_unit"), ("cosine", "euclidean")
every_space = pytest.mark.parametrize("space", SPACES)
every_metric = pytest.mark.parametrize("metric", METRICS)
Row = list[float]


def _fit(bank: FeatureBank, space: str, metric: str, split: LongTailSplit) -> Classifier:
    spec = NCM.model_validate({"space": space, "metric": metric})
    return spec.fit(bank, biased_network(bank, bias=1.0), split, make_run())[0]


def _unit(row: Row) -> Row:
    length = math.sqrt(math.fsum(x * x for x in row))
    return [x / length for x in row]


def _mean(rows: list[Row]) -> Row:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def _in_space(rows: list[Row], space: str, centre: Row) -> list[Row]:
    if space == "centred_unit":
        rows = [[x - c for x, c in zip(row, centre, strict=True)] for row in rows]
    return rows if space == "raw" else [_unit(row) for row in rows]


def _nearness(row: Row, mean: Row, metric: str) -> float:
    if metric == "euclidean":
        return -math.fsum((x - m) ** 2 for x, m in zip(row, mean, strict=True))
    return math.fsum(x * m for x, m in zip(_unit(row), _unit(mean), strict=True))


def _oracle(bank: FeatureBank, space: str, metric: str, queries: torch.Tensor) -> list[Row]:
    """Nearness of each query to each class mean."""
    train = bank.features[0].double().tolist()
    centre = _mean(train)
    moved = _in_space(train, space, centre)
    labels = bank.labels.tolist()
    means = [_mean([row for row, y in zip(moved, labels, strict=True) if y == k]) for k in range(5)]
    return [[_nearness(q, m, metric) for m in means] for q in _in_space(queries.tolist(), space, centre)]


@every_space
@every_metric
def test_the_nearest_mean_wins_by_as_much_as_it_is_nearer(space: str, metric: str, tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.6, val_per_class=10)
    logits = _fit(bank, space, metric, tiny_split)(bank.val_features.double())
    expected = torch.tensor(_oracle(bank, space, metric, bank.val_features.double()), dtype=torch.float64)
    # Logits may differ from minus squared distances by what all classes of a row share.
    assert torch.allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-5)
    assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_spaces_and_metrics_disagree_somewhere(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=1.5, val_per_class=40)
    answers = {
        tuple(_fit(bank, space, metric, tiny_split)(bank.val_features.float()).argmax(1).tolist())
        for space in SPACES
        for metric in METRICS
    }
    assert len(answers) == 6


@every_space
@every_metric
def test_one_image_is_a_mean(space: str, metric: str, tiny_split: LongTailSplit) -> None:
    bank = make_bank(counts=(1, 1, 1, 1, 1), spread=0.2)
    guesses = _fit(bank, space, metric, tiny_split)(bank.view(0)).argmax(1)
    assert torch.equal(guesses, bank.labels)


@every_space
@every_metric
def test_a_class_without_images_is_never_predicted(space: str, metric: str, tiny_split: LongTailSplit) -> None:
    bank = make_bank(counts=(9, 0, 4, 2, 1))
    classifier = _fit(bank, space, metric, tiny_split)
    queries = torch.cat([bank.val_features.float(), torch.zeros(1, 16), 1e4 * torch.eye(16)])
    logits = classifier(queries)
    assert logits.isfinite().all()
    assert (logits.softmax(1)[:, 1] == 0).all()
    assert not (logits.argmax(1) == 1).any()


@every_space
@every_metric
def test_counts_have_no_say(space: str, metric: str, tiny_split: LongTailSplit) -> None:
    """Showing each image of the head class three times moves no mean; only `centred_unit` knows how many there are."""
    bank = make_bank(spread=0.6, val_per_class=10)
    rows = torch.cat([torch.arange(len(bank.labels)), *[torch.nonzero(bank.labels == 0).flatten()] * 2])
    counts = torch.bincount(bank.labels[rows])
    more = FeatureBank(
        **(vars(bank) | {"features": bank.features[:, rows], "labels": bank.labels[rows], "class_counts": counts})
    )
    one, two = (_fit(b, space, metric, tiny_split)(bank.val_features.double()) for b in (bank, more))
    assert torch.allclose(one, two, atol=1e-5) == (space != "centred_unit")


def test_only_the_clean_view_counts_and_the_classifier_of_stage_one_does_not(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    clean = FeatureBank(**(vars(bank) | {"features": bank.features[:1]}))
    assert torch.equal(
        _fit(bank, "raw", "euclidean", tiny_split).weight, _fit(clean, "raw", "euclidean", tiny_split).weight
    )
    spec = NCM(space="raw", metric="euclidean")
    one, two = (spec.fit(bank, biased_network(bank, bias), tiny_split, make_run())[0] for bias in (0.0, 5.0))
    assert torch.equal(one.bias, two.bias)


def test_validation_accuracy_is_reported_where_there_is_any(tiny_split: LongTailSplit) -> None:
    spec = NCM(space="raw", metric="cosine")
    bank, blind = make_bank(), make_bank(val_per_class=0)
    assert spec.fit(bank, biased_network(bank, 0.0), tiny_split, make_run())[1] == [{"epoch": 0, "val_accuracy": 1.0}]
    assert spec.fit(blind, biased_network(blind, 0.0), tiny_split, make_run())[1] == [{"epoch": 0}]
    assert spec.without_validation() is None


@pytest.mark.parametrize("bad", [{"space": "l2n"}, {"metric": "l2"}, {"k": 1}])
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"space|metric|k"):
        NCM.model_validate({"space": "raw", "metric": "cosine"} | bad)
