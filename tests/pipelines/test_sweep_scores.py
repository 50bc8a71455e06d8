import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from banks import biased_network, make_bank
from longtail.features.bank import FeatureBank
from longtail.models.network import Network
from longtail.params import Params, load_params
from longtail.spec import InputError
from pipelines.sweep_scores import summaries
from small_project import REPOSITORY


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Two methods on one representation, two seeds; the present folder is empty but for params.yaml."""
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content["seeds"] = [0, 3]
    content["methods"] = {name: content["methods"][name] for name in ("ce", "crt")}
    content["retrain"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return load_params()


def place(bank: FeatureBank, network: Network, method: str, seed: int) -> None:
    features, classifiers = Path("features/ce") / f"seed_{seed}", Path("classifiers") / method / f"seed_{seed}"
    for folder in (features, classifiers):
        folder.mkdir(parents=True, exist_ok=True)
    bank.save(features / "bank.safetensors")
    network.classifier.export().save(classifiers / "classifier.safetensors")


def test_methods_are_measured_on_validation_images_and_by_group(params: Params) -> None:
    bank = make_bank((200, 50, 9, 3, 1), spread=0.0)
    for seed, bias in ((0, 0.0), (3, 50.0)):
        place(bank, biased_network(bank, 0.0), "ce", seed)
        place(bank, biased_network(bank, bias), "crt", seed)  # of seed 3 it takes all for the most frequent class
    found = summaries(params)
    assert found["ce"]["overall"] == {"mean": 1.0, "std": 0.0, "n": 2}
    assert found["crt"]["overall"]["mean"] == pytest.approx((1 + 1 / 5) / 2)
    assert found["crt"]["many"]["mean"] == 1.0 and found["crt"]["few"]["mean"] == 0.5
    assert found["crt"]["few"]["classes"] == 3


def test_without_validation_images_there_is_no_score(params: Params) -> None:
    bank = make_bank(val_per_class=0)
    for seed in params.seeds:
        for method in params.methods:
            place(bank, biased_network(bank, 0.0), method, seed)
    assert summaries(params) == {"ce": None, "crt": None}


def test_a_classifier_that_gives_no_numbers_is_refused(params: Params) -> None:
    bank = make_bank()
    broken = replace(bank, val_features=torch.full_like(bank.val_features, torch.nan))
    for seed in params.seeds:
        for method in params.methods:
            place(broken, biased_network(bank, 0.0), method, seed)
    with pytest.raises(InputError, match="not finite"):
        summaries(params)


def test_it_writes_the_file_that_it_is_given(params: Params) -> None:
    bank = make_bank(spread=0.0)
    for seed in params.seeds:
        for method in params.methods:
            place(bank, biased_network(bank, 0.0), method, seed)
    script = str(REPOSITORY / "pipelines" / "sweep_scores.py")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    subprocess.run([sys.executable, "-P", script, "scores.json"], check=True, env=environment)
    assert json.loads(Path("scores.json").read_text()) == summaries(params)
