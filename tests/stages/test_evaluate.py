"""Which test features a classifier meets: the saved ones, or its own where it brings BatchNorm statistics.

And how large the network is that serves.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from longtail.evaluation import load_predictions
from longtail.images.labeled import LongTailSplit
from longtail.images.split_files import save_split
from longtail.models import NetworkSpec
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.models.saved import NetworkDescription, save_weights
from longtail.params import Params, load_params
from longtail.stages.evaluate import evaluate_method, features_for, parameters_of
from longtail.stages.job import Job
from longtail.tracking import stage_run
from longtail.training.hardware import select_device
from longtail.training.inference import features_of

PARAMS = Path(__file__).parents[2] / "params.yaml"
SAVED = torch.rand((20, 4), generator=torch.Generator().manual_seed(0))  # no network's features


@pytest.fixture
def params() -> Params:
    """The repository's params with one seed."""
    return load_params(PARAMS).model_copy(update={"seeds": (3,)})


@pytest.fixture
def network(params: Params, tiny_split: LongTailSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network that stage one has left in models/ce, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    for folder in ("models/ce/seed_3", "features/ce/seed_3", "classifiers/crt/seed_3", "evaluations/crt"):
        Path(folder).mkdir(parents=True)
    save_split(tiny_split, Path("data/split"))
    description = NetworkDescription.of(params.network, tiny_split)
    description.save(Path("models/ce"))
    network = description.build(3).freeze()
    save_weights(network, Path("models/ce/seed_3/weights.safetensors"))
    save_file({"features": SAVED, "labels": tiny_split.test.labels}, "features/ce/seed_3/test.safetensors")
    return network


def moved(network: Network) -> dict[str, torch.Tensor]:
    """Statistics that are not the network's own."""
    draws = torch.Generator().manual_seed(1)
    buffers = {name: value for name, value in network.state_dict().items() if "running_var" in name}
    return {name: torch.rand(value.shape, generator=draws) / 10 + 0.05 for name, value in buffers.items()}


def run_evaluate(params: Params) -> None:
    with stage_run("evaluate", "crt", params, Path()) as track:
        evaluate_method(Job("evaluate", params, "crt", Path("evaluations/crt"), track))


def test_features_are_the_saved_ones_without_statistics(network: Network, tiny_split: LongTailSplit) -> None:
    assert torch.equal(features_for(network.classifier.export(), tiny_split.test, "ce", 3), SAVED)


def test_statistics_ask_for_features_of_their_own(network: Network, tiny_split: LongTailSplit) -> None:
    classifier = replace(network.classifier.export(), statistics=moved(network))
    found = features_for(classifier, tiny_split.test, "ce", 3)
    device = select_device()
    features = [
        torch.cat(list(features_of(n.to(device), tiny_split.test, device)))
        for n in (network.with_statistics(moved(network)), network)
    ]
    torch.testing.assert_close(found, features[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, features[1], atol=1e-2)


def test_the_stage_evaluates_on_the_features_that_belong_to_the_classifier(
    network: Network, params: Params, tiny_split: LongTailSplit
) -> None:
    own = network.classifier.export()
    classifier = Classifier(own.weight, own.bias, statistics=moved(network))
    classifier.save(Path("classifiers/crt/seed_3/classifier.safetensors"))
    run_evaluate(params)
    found = load_predictions(Path("evaluations/crt/seed_3.safetensors"))
    expected = classifier(features_for(classifier, tiny_split.test, "ce", 3)).softmax(1)
    torch.testing.assert_close(found.probabilities, expected, atol=1e-5, rtol=0)
    assert torch.equal(found.labels, tiny_split.test.labels)
    assert expected.std(0).max() > 1e-3, "a test on constant probabilities would say nothing"


def counted(classifier: int) -> int:
    """Three convolutions of digits_cnn on colour images, each with BatchNorm's weight and bias, and the classifier."""
    return (3 * 32 + 32 * 64 + 64 * 64) * 9 + 2 * (32 + 64 + 64) + classifier


@pytest.mark.parametrize(("classifier", "numbers"), [("linear", 64 * 5 + 5), ("cosine", 64 * 5)])
def test_parameters_are_what_the_saved_network_learned(
    classifier: Literal["linear", "cosine"], numbers: int, tiny_split: LongTailSplit, tmp_path: Path
) -> None:
    spec = NetworkSpec(backbone="digits_cnn", classifier=classifier, scale=1.0, weights=None)
    description = NetworkDescription.of(spec, tiny_split)
    description.save(tmp_path)
    (tmp_path / "seed_3").mkdir()
    save_weights(description.build(3).freeze(), tmp_path / "seed_3/weights.safetensors")
    assert parameters_of(tmp_path, 3) == counted(numbers)


def test_parameters_stand_beside_the_metrics_of_all_seeds(
    network: Network, params: Params, tiny_split: LongTailSplit
) -> None:
    network.classifier.export().save(Path("classifiers/crt/seed_3/classifier.safetensors"))
    features = torch.rand((20, 64), generator=torch.Generator().manual_seed(0))
    save_file({"features": features, "labels": tiny_split.test.labels}, "features/ce/seed_3/test.safetensors")
    run_evaluate(params)
    document = json.loads(Path("evaluations/crt/metrics.json").read_text())
    assert document["parameters"] == counted(64 * 5 + 5)
    assert {"summary", "per_class", "seeds"} == set(document) - {"parameters"}
    assert "parameters" not in document["summary"], "the summary goes into reports/metrics.json"
