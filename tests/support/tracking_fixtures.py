"""A project whose stages have run, and a migrated MLflow database, each made once and copied for every test."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import tiny
from longtail.evaluation import Predictions, evaluate, metrics_document, save_predictions
from longtail.images.split_files import save_split
from longtail.models.classifier import Classifier
from longtail.models.saved import NetworkDescription, save_weights
from longtail.params import Params, load_params
from longtail.report.leaderboard import save_metrics
from longtail.training.inference import features_of
from tracked import EPOCHS

ROOT = Path(__file__).parents[2]
TRACKING_VARIABLES = ("LONGTAIL_", "MLFLOW_", "DVC_", "DO_NOT_TRACK", "GIT_")


@pytest.fixture(scope="session")
def params() -> Params:
    """The repository's params with one representation, two methods on it and two seeds."""
    document = load_params(ROOT / "params.yaml").model_dump(mode="json")
    representation = next(iter(document["representations"]))
    first = [name for name, row in document["methods"].items() if row["representation"] == representation][:2]
    document["seeds"] = [0, 3]
    document["representations"] = {representation: document["representations"][representation]}
    document["methods"] = {name: document["methods"][name] for name in first}
    document["retrain"] = None
    return Params.model_validate(document)


@pytest.fixture(scope="session")
def finished(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and the outputs of every stage, from networks that nobody trained."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    with chdir(folder):
        save_split(tiny.make_split(), Path("data/split"))
        for representation in params.representations:
            _train(params, representation)
        for method in params.methods:
            _finetune_and_evaluate(params, method)
        _report(params)
    return folder


def _train(params: Params, representation: str) -> None:
    split = tiny.make_split()
    description = NetworkDescription.of(params.network, split)
    for seed in params.seeds:
        folder, features = _made("models", representation, seed), _made("features", representation, seed)
        network = description.build(seed).freeze()
        save_weights(network, folder / "weights.safetensors")
        _write_history(folder, [{"epoch": e, "loss": 2.0 - 0.1 * e - 0.01 * seed, "lr": 0.1} for e in range(EPOCHS)])
        test = torch.cat(list(features_of(network, split.test, torch.device("cpu"))))
        save_file({"features": test, "labels": split.test.labels}, features / "test.safetensors")
    description.save(Path("models", representation))


def _finetune_and_evaluate(params: Params, method: str) -> None:
    split, per_seed = tiny.make_split(), {}
    representation = params.methods[method].representation
    description = NetworkDescription.load(Path("models", representation))
    for seed in params.seeds:
        network = description.load_weights(
            Path("models", representation, f"seed_{seed}", "weights.safetensors")
        ).freeze()
        own = network.classifier.export()
        classifier = Classifier(own.weight * (2 + len(method)), own.bias)
        folder = _made("classifiers", method, seed)
        classifier.save(folder / "classifier.safetensors")
        _write_history(folder, [{"epoch": e, "loss": 1.0 / (1 + e), "beta": [0.5, 0.1 * e]} for e in range(2)])
        probabilities = classifier(torch.cat(list(features_of(network, split.test, torch.device("cpu"))))).softmax(1)
        per_seed[seed] = evaluate(probabilities, split.test.labels, split.class_counts, params.evaluation)
        evaluations = Path("evaluations", method)
        evaluations.mkdir(parents=True, exist_ok=True)
        predictions = Predictions(tuple(split.test.ids), split.test.labels, probabilities)
        save_predictions(predictions, evaluations / f"seed_{seed}.safetensors")
    document = {"parameters": 464154, **metrics_document(per_seed)}
    Path("evaluations", method, "metrics.json").write_text(json.dumps(document, indent=2))


def _report(params: Params) -> None:
    Path("reports/plots").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("reports/plots/groups.png")
    documents = {name: json.loads(Path("evaluations", name, "metrics.json").read_text()) for name in params.methods}
    save_metrics({name: document["summary"] for name, document in documents.items()}, Path("reports/metrics.json"))
    Path("reports/leaderboard.md").write_text("# Leaderboard\n")


def _made(kind: str, row: str, seed: int) -> Path:
    folder = Path(kind, row, f"seed_{seed}")
    folder.mkdir(parents=True)
    return folder


def _write_history(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that is migrated and empty: the migrations take seconds."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # as tracking has it, when it imports mlflow first
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def project(finished: Path, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder: finished outputs, nothing in MLflow, no variable that speaks of tracking."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(TRACKING_VARIABLES):
            monkeypatch.delenv(name)
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    shutil.copy(database, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    yield folder
    os.environ.clear()  # tracking sets mlflow's patience for the process
    os.environ.update(before)
