"""What every balancer promises, over every member of the union."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from banks import CPU, biased_network, copied, make_bank, make_plan, make_run, same
from longtail.balancers import Balancer
from longtail.features.bank import ExtractSpec, FeatureBank, extract
from longtail.images.labeled import LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.inference import features_of
from longtail.training.loop import History
from trained import trained_network
from unions import members, name_of

ROWS: dict[str, dict[str, Any]] = {
    "keep": {},
    "crt": {"sampler": "class_balanced", "plan": make_plan(epochs=15).model_dump()},
    "lws": {"sampler": "class_aware", "plan": make_plan(epochs=15).model_dump()},
    "tau_norm": {"tau": {"start": 0.0, "stop": 2.0, "step": 0.25}},
    "logit_adjustment": {"tau": {"start": 0.0, "stop": 2.0, "step": 0.25}},
    "ncm": {"space": "centred_unit", "metric": "euclidean"},
    "mislas": {
        "smoothing": {"eps_head": 0.3, "eps_tail": 0.0, "form": "concave"},
        "shift_batch_norm": True,
        "lr_factors": {"fc": 1.0, "lws": 1.0},
        "augmentation": {"crop": "none", "pad": 0, "flip": False, "jitter": 0.1, "policy": "none", "cutout": 0},
        "plan": make_plan(epochs=15).model_dump(),
    },
    "ofa": {
        "specific": 0.8,
        "generic": 0.2,
        "confusing": 3,
        "confusing_pool": "all",
        "fused_per_image": 3,
        "tail_sampling": "class",
        "head_classes": {"name": "many_shot", "above": 15},
        "fuse": True,
        "iterations": 60,
        "augmentation": {"crop": "none", "pad": 0, "flip": False, "jitter": 0.1, "policy": "none", "cutout": 0},
        "plan": make_plan(epochs=15, batch_size=16).model_dump(),
    },
    "glag": {
        "beta_0": 0.3,
        "adaptive": {
            "compare": "previous",
            "momentum": 0.5,
            "maximum": 0.9,
            "rule": {"name": "sign", "step": 0.05, "tolerance": 0.01},
        },
        "head_classes": {"name": "many_shot", "above": 15},
        "generation": {
            "tukey": 0.9,
            "statistics": "transformed",
            "support": 2,
            "gamma": 0.0,
            "gamma_form": "ones",
            "clamp": False,
            "epoch_rows": "union",
        },
        "distillation": {"temperature": 2.0, "alpha": {"form": "convex", "s": 1.0, "c": 2.0}},
        "lr_factors": {"fc": 1.0, "lws": 1.0},
        "plan": make_plan(epochs=15).model_dump(),
    },
}
every_balancer = pytest.mark.parametrize("name", [name_of(member) for member in members(Balancer)])


def _fit(
    name: str,
    bank: FeatureBank,
    network: Network,
    split: LongTailSplit,
    seed: int = 0,
    rows: list[History] | None = None,
) -> tuple[Classifier, list[History]]:
    balancer = TypeAdapter[Any](Balancer).validate_python({"name": name, **ROWS[name]})
    result: tuple[Classifier, list[History]] = balancer.fit(
        bank, network, split, make_run(seed, log=(rows if rows is not None else []).append)
    )
    return result


def _given(name: str, split: LongTailSplit, bias: float) -> tuple[FeatureBank, Network]:
    """A bank with a network: of the split's images for those that look at images, who must agree with the bank."""
    if "augmentation" not in ROWS[name]:
        bank = make_bank()
        return bank, biased_network(bank, bias)
    network = trained_network()
    augmentation = Augmentation.model_validate(ROWS[name]["augmentation"])
    return extract(network, split, augmentation, ExtractSpec(views=2, max_gigabytes=1.0), 0, CPU), network


@every_balancer
def test_separable_features_are_told_apart(name: str, tiny_split: LongTailSplit) -> None:
    bank, network = _given(name, tiny_split, bias=0.0)
    if name == "tau_norm":  # it drops the bias, so directions must do: weights that are normalised class means
        with torch.no_grad():
            network.classifier.weight.copy_(torch.nn.functional.normalize(bank.class_means))
    classifier, _ = _fit(name, bank, network, tiny_split)
    moved = network.with_statistics(classifier.statistics or {})
    seen = torch.cat(list(features_of(moved, tiny_split.val, CPU))) if classifier.statistics else bank.val_features
    assert torch.equal(classifier(seen.float()).argmax(1), bank.val_labels)


@every_balancer
def test_equal_seeds_give_equal_bits_and_nothing_else_changes(
    name: str, tiny_split: LongTailSplit, tiny_network: Network
) -> None:
    bank, network = make_bank(spread=0.5), tiny_network.freeze()
    before, weights = copied(bank), {k: v.clone() for k, v in network.state_dict().items()}
    torch.manual_seed(1)
    one = _fit(name, bank, network, tiny_split, seed=3)
    torch.manual_seed(2)  # torch's global generator has no say
    state = torch.random.get_rng_state()
    two = _fit(name, bank, network, tiny_split, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one[0].weight, two[0].weight)
    assert torch.equal(one[0].bias, two[0].bias)
    assert one[1] == two[1]
    assert same(bank, before)
    assert not network.training
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


@every_balancer
def test_history_is_logged_and_is_json(name: str, tiny_split: LongTailSplit) -> None:
    (bank, network), rows = _given(name, tiny_split, bias=1.0), list[History]()
    _, history = _fit(name, bank, network, tiny_split, rows=rows)
    assert rows == history
    assert [row["epoch"] for row in history] == list(range(len(history)))
    for row in history:
        numbers = [n for value in row.values() for n in (value if isinstance(value, list) else [value])]
        assert all(isinstance(n, int | float) for n in numbers)
        assert all(abs(n) < 1e9 for n in numbers)  # finite, which NaN is not


@every_balancer
def test_the_classifier_survives_the_disk(name: str, tiny_split: LongTailSplit, tmp_path: Path) -> None:
    bank, network = _given(name, tiny_split, bias=1.0)
    classifier, _ = _fit(name, bank, network, tiny_split)
    assert classifier.weight.shape == (5, 16)
    assert not classifier.weight.requires_grad
    classifier.save(tmp_path / "classifier.safetensors")
    loaded = Classifier.load(tmp_path / "classifier.safetensors")
    features = bank.val_features.float()
    assert torch.equal(loaded(features), classifier(features))
