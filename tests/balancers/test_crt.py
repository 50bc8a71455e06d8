"""cRT: a fresh classifier on balanced batches finds the tail again, and touches nothing else."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from banks import biased_network, copied, make_bank, make_plan, make_run, same
from longtail.balancers.crt import CRT
from longtail.features.bank import FeatureBank
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.loop import History, Run

SAMPLERS = ("class_balanced", "class_aware")


def _spec(sampler: Literal["class_balanced", "class_aware"] = "class_balanced", **plan: Any) -> CRT:
    return CRT(sampler=sampler, plan=make_plan(**plan))


def _recall(classifier: Classifier, bank: FeatureBank) -> list[float]:
    guesses = classifier(bank.val_features.float()).argmax(1)
    return [(guesses[bank.val_labels == k] == k).float().mean().item() for k in range(len(bank.class_counts))]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_separable_features_are_told_apart(
    sampler: Literal["class_balanced", "class_aware"], tiny_split: LongTailSplit
) -> None:
    bank = make_bank()
    classifier, history = _spec(sampler, epochs=20).fit(bank, biased_network(bank, 0.0), tiny_split, make_run())
    assert _recall(classifier, bank) == [1.0] * 5
    assert history[-1]["val_accuracy"] == 1.0
    assert [row["epoch"] for row in history] == list(range(20))


def test_few_shot_rises_above_a_biased_classifier(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.5, val_per_class=20)
    network = biased_network(bank, bias=3.0)
    before = _recall(network.classifier.export(), bank)
    after = _recall(_spec(epochs=30).fit(bank, network, tiny_split, make_run())[0], bank)
    assert before[0] == 1.0
    assert sum(before[3:]) < 0.8
    assert sum(after[3:]) > sum(before[3:]) + 1


def test_history_is_what_was_logged(tiny_split: LongTailSplit) -> None:
    bank, rows = make_bank(), list[History]()
    _, history = _spec().fit(bank, biased_network(bank, 0.0), tiny_split, make_run(log=rows.append))
    assert rows == history
    assert all(set(row) == {"epoch", "loss", "lr", "val_accuracy"} for row in history)


def test_without_validation_images_it_trains_the_same(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    blind = FeatureBank(**(vars(bank) | {"val_features": bank.val_features[:0], "val_labels": bank.val_labels[:0]}))
    one, _ = _spec().fit(bank, biased_network(bank, 0.0), tiny_split, make_run())
    two, history = _spec().fit(blind, biased_network(bank, 0.0), tiny_split, make_run())
    assert torch.equal(one.weight, two.weight)
    assert all("val_accuracy" not in row for row in history)


def test_stage_one_classifier_has_no_say(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    one, two = (_spec().fit(bank, biased_network(bank, bias), tiny_split, make_run())[0] for bias in (0.0, 5.0))
    assert torch.equal(one.weight, two.weight)


def test_equal_seeds_give_equal_bits(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    network = biased_network(bank, 0.0)
    one, two, other = (_spec().fit(bank, network, tiny_split, make_run(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)
    assert not torch.equal(one.weight, other.weight)
    still = [_spec(lr=1e-12).fit(bank, network, tiny_split, make_run(seed))[0].weight for seed in (1, 2)]
    assert (still[0] - still[1]).abs().max() > 0.1  # each seed starts from weights of its own


def test_samplers_and_views_matter(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    first_view = FeatureBank(**(vars(bank) | {"features": bank.features[:1]}))
    network = biased_network(bank, 0.0)
    fits = [(bank, "class_balanced"), (bank, "class_aware"), (first_view, "class_balanced")]
    weights = [_spec(sampler).fit(b, network, tiny_split, make_run())[0].weight for b, sampler in fits]  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bank_and_network_stay(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    bank = make_bank()
    network = tiny_network.freeze()
    before, weights = copied(bank), {k: v.clone() for k, v in network.state_dict().items()}
    _spec().fit(bank, network, tiny_split, make_run())
    assert same(bank, before)
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    assert not network.training


class _KilledError(Exception):
    pass


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    bank = make_bank()
    network = biased_network(bank, 0.0)
    whole, history = _spec().fit(bank, network, tiny_split, make_run())

    def killer(row: History) -> None:
        if row["epoch"] == 2:
            raise _KilledError

    def run(**changes: Any) -> Run:
        return make_run(checkpoint=tmp_path / "c.pt", **changes)

    with pytest.raises(_KilledError):
        _spec().fit(bank, network, tiny_split, run(log=killer))
    rows: list[History] = []
    resumed, again = _spec().fit(bank, network, tiny_split, run(log=rows.append))
    assert [row["epoch"] for row in rows] == [3, 4, 5]
    assert again == history
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
