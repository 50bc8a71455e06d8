"""tau-normalisation: the formula in plain loops, and tau chosen on validation images alone."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from banks import biased_network, copied, make_bank, make_run, same
from longtail.balancers.tau_norm import TauNorm, normalised
from longtail.features.bank import FeatureBank
from longtail.features.grid import Grid
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier, CosineClassifier, LinearClassifier
from longtail.models.network import Network
from longtail.spec import InputError
from longtail.training.loop import History

GRID = {"start": 0.0, "stop": 2.0, "step": 0.1}


def _spec(tau: Any) -> TauNorm:
    return TauNorm.model_validate({"tau": tau})


def _long_headed(bank: FeatureBank) -> Network:
    """Weights that point at the class means, longer for frequent classes."""
    classifier = LinearClassifier(16, 5)
    with torch.no_grad():
        directions = nn.functional.normalize(bank.class_means)
        classifier.weight.copy_(directions * bank.class_counts[:, None] ** 0.4)
    return Network([nn.Identity()], classifier).freeze()


def _accuracy(weight: torch.Tensor, bank: FeatureBank) -> float:
    guesses = (bank.val_features.float() @ weight.T).argmax(1)
    per_class = [(guesses[bank.val_labels == k] == k).float().mean().item() for k in range(len(weight))]
    return sum(per_class) / len(per_class)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 2.0])
def test_weights_follow_the_formula(tau: float) -> None:
    weight = torch.randn((4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = normalised(Classifier(weight, torch.ones(4, dtype=torch.float64)), tau)
    for k, row in enumerate(weight.tolist()):
        length = math.sqrt(math.fsum(w * w for w in row))
        assert result.weight[k].tolist() == pytest.approx([w / length**tau for w in row])
    assert result.bias.tolist() == [0.0] * 4


def test_zero_weights_stay_zero() -> None:
    result = normalised(Classifier(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(2)), 2.0)
    assert result.weight.tolist() == [[0.0, 0.0], [pytest.approx(0.12), pytest.approx(0.16)]]


def test_tau_zero_is_keep_without_its_bias(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=1.0)
    network = biased_network(bank, bias=1.0)
    classifier, history = _spec(0.0).fit(bank, network, tiny_split, make_run())
    features = bank.features[0].float()
    assert torch.equal(classifier(features), features @ network.classifier.weight.T)
    assert history[0]["tau"] == 0.0


def test_validation_chooses_the_best_tau_and_the_smallest_of_equals(tiny_split: LongTailSplit) -> None:
    bank, rows = make_bank(spread=0.4, val_per_class=20), list[History]()
    network = _long_headed(bank)
    weight = network.classifier.weight
    scores = [_accuracy(weight / weight.norm(dim=1, keepdim=True) ** (0.1 * i), bank) for i in range(21)]
    best = 0.1 * scores.index(max(scores))
    assert 0 < best < 2
    assert scores.count(max(scores)) > 1  # there is a tie to break
    classifier, history = _spec(GRID).fit(bank, network, tiny_split, make_run(log=rows.append))
    assert history == rows == [{"epoch": 0, "tau": pytest.approx(best), "val_accuracy": pytest.approx(max(scores))}]
    assert _accuracy(classifier.weight, bank) == pytest.approx(max(scores))


def test_frequent_classes_lose_their_advantage(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.1)
    network = _long_headed(bank)
    classifier, _ = _spec(GRID).fit(bank, network, tiny_split, make_run())
    assert _accuracy(network.classifier.weight, bank) < 0.9
    assert _accuracy(classifier.weight, bank) == 1.0


def test_weights_of_equal_length_change_nothing(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    network = Network([nn.Identity()], CosineClassifier(16, 5, scale=8.0)).freeze()
    classifier, history = _spec(GRID).fit(bank, network, tiny_split, make_run())
    features = bank.features[0].float()
    assert torch.equal(classifier(features).argmax(1), network.classifier(features).argmax(1))
    assert history[0]["tau"] == 0.0


def test_without_validation_images_tau_must_be_a_number(tiny_split: LongTailSplit) -> None:
    bank = make_bank(val_per_class=0)
    network = biased_network(bank, bias=1.0)
    with pytest.raises(InputError, match=r"data.validation.per_class to 20, or give balancer.tau a number"):
        _spec(GRID).fit(bank, network, tiny_split, make_run())
    _, history = _spec(1.0).fit(bank, network, tiny_split, make_run())
    assert history == [{"epoch": 0, "tau": 1.0}]


def test_classes_without_validation_images_are_left_out(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.4, val_per_class=20)
    kept = bank.val_labels != 0
    fewer = FeatureBank(**(vars(bank) | {"val_features": bank.val_features[kept], "val_labels": bank.val_labels[kept]}))
    network, scores = _long_headed(bank), []
    for tau in Grid(**GRID).values():
        guesses = (fewer.val_features.float() @ normalised(network.classifier.export(), tau).weight.T).argmax(1)
        scores.append(sum((guesses[fewer.val_labels == k] == k).float().mean().item() for k in range(1, 5)) / 4)
    best = scores.index(max(scores))
    assert best > 0
    _, history = _spec(GRID).fit(fewer, network, tiny_split, make_run())
    assert history == [{"epoch": 0, "tau": Grid(**GRID).values()[best], "val_accuracy": pytest.approx(max(scores))}]


@pytest.mark.parametrize(
    "bad", [{"start": 1.0, "stop": 0.0, "step": 0.1}, GRID | {"step": 0.0}, -1.0, "much", GRID | {"by": 1}]
)
def test_nonsense_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"above stop|greater than|valid number|not permitted"):
        _spec(bad)


def test_inputs_stay_and_relabelling_moves_the_classifier(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.4, val_per_class=20)
    before, network = copied(bank), _long_headed(bank)
    classifier, history = _spec(GRID).fit(bank, network, tiny_split, make_run())
    assert same(bank, before)
    order = torch.tensor([3, 0, 4, 1, 2])  # new label of each class
    moved = LinearClassifier(16, 5)
    with torch.no_grad():
        moved.weight[order] = network.classifier.weight
    renamed = FeatureBank(**(vars(bank) | {"val_labels": order[bank.val_labels]}))
    again, rows = _spec(GRID).fit(renamed, Network([nn.Identity()], moved).freeze(), tiny_split, make_run())
    assert rows == [{**history[0], "val_accuracy": pytest.approx(history[0]["val_accuracy"])}]
    assert torch.equal(again.weight[order], classifier.weight)
