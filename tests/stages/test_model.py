"""What MLflow holds of a graph that has really run: a parent with its stages, and a GLAG model that says the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from clones import Clone
from longtail.evaluation import load_predictions
from longtail.images.split_files import load_split
from longtail.serving.predictor import encode_png

pytest_plugins = ["clone_fixtures"]

STAGES = {
    "split",
    "train gradual",
    "extract gradual",
    "finetune graloss",
    "finetune glag",
    "evaluate graloss",
    "evaluate glag",
    "report",
}
IMAGES = 100
# Arguments: the model, a folder of PNGs. Prints columns and rows as JSON; longtail comes with the model or not at all.
ELSEWHERE = """
import importlib.util, json, pathlib, sys
sys.path = [entry for entry in sys.path if not pathlib.Path(entry, "longtail").exists()]  # an editable install
assert importlib.util.find_spec("longtail") is None, "this process must not find longtail by itself"
import mlflow, pandas
files = sorted(pathlib.Path(sys.argv[2]).glob("*.png"))
images = pandas.DataFrame({"image": [file.read_bytes() for file in files]})
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict(images)
print(json.dumps({"columns": list(answer.columns), "rows": answer.to_numpy().tolist()}))
"""


class Database:
    """The runs of a clone's MLflow database, newest first."""

    def __init__(self, file: Path) -> None:
        self.client = MlflowClient(f"sqlite:///{file}")
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        self.runs = list(self.client.search_runs(experiments))
        (self.parent,) = (run for run in self.runs if "mlflow.parentRunId" not in run.data.tags)

    def children(self) -> dict[str, Run]:
        parent = self.parent.info.run_id
        return {run.info.run_name: run for run in self.runs if run.data.tags.get("mlflow.parentRunId") == parent}

    def model(self, run: str) -> str:
        """Return where the one model lies that a nested run has logged."""
        outputs = self.client.get_run(self.children()[run].info.run_id).outputs
        assert outputs is not None
        (output,) = outputs.model_outputs
        return self.client.get_logged_model(output.model_id).artifact_location


@pytest.fixture(scope="module")
def database(clone: Clone) -> Database:
    """The clone's graph ran untracked; what it left is sent afterwards."""
    sync = ("python", "-m", "longtail.tracking", "sync")
    first = clone.run(*sync, LONGTAIL_TRACKING="on", PYTHONPATH="src")
    assert first.startswith("Sent to sqlite:///"), first
    again = clone.run(*sync, LONGTAIL_TRACKING="on", PYTHONPATH="src")
    assert again.rstrip().endswith("has everything."), again
    return Database(clone.folder / "mlflow.db")


def test_one_finished_parent_with_a_finished_run_per_stage(database: Database) -> None:
    assert {name: run.info.status for name, run in database.children().items()} == dict.fromkeys(STAGES, "FINISHED")
    assert len(database.runs) == len(STAGES) + 1
    assert database.parent.info.status == "FINISHED"


def test_the_parent_compares_by_params_and_metrics_of_every_method(clone: Clone, database: Database) -> None:
    document = json.loads((clone.folder / "reports" / "metrics.json").read_text())
    for method, metrics in document.items():
        assert database.parent.data.metrics[f"{method}/overall"] == pytest.approx(metrics["overall"]["mean"])
    beta_0 = clone.params()["methods"]["glag"]["balancer"]["beta_0"]
    assert database.parent.data.params["methods.glag.balancer.beta_0"] == str(beta_0)
    plots = {file.path for file in database.client.list_artifacts(database.parent.info.run_id, "plots")}
    assert "plots/features_glag.png" in plots


def test_every_epoch_of_stage_one_is_a_point_of_the_curve(clone: Clone, database: Database) -> None:
    run = database.children()["train gradual"].info.run_id
    history = (clone.folder / "models" / "gradual" / "seed_0" / "history.jsonl").read_text().splitlines()
    losses = {row["epoch"]: row["loss"] for row in map(json.loads, history)}
    points = database.client.get_metric_history(run, "seed_0/loss")
    assert {point.step: point.value for point in points} == pytest.approx(losses)


def test_the_logged_glag_model_says_what_evaluate_recorded(clone: Clone, database: Database, tmp_path: Path) -> None:
    split = load_split(clone.folder / "data" / "split")
    recorded = load_predictions(clone.folder / "evaluations" / "glag" / "seed_0.safetensors")
    assert tuple(recorded.ids) == tuple(split.test.ids)
    chosen = torch.linspace(0, len(split.test) - 1, IMAGES).long()  # of every class
    assert isinstance(split.test.images, torch.Tensor)
    for i, image in enumerate(split.test.images[chosen]):
        (tmp_path / f"{i:03}.png").write_bytes(encode_png(image))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, database.model("evaluate glag"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert tuple(answer["columns"]) == split.classes
    torch.testing.assert_close(torch.tensor(answer["rows"]), recorded.probabilities[chosen], atol=1e-5, rtol=0)
