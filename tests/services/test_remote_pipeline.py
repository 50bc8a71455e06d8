"""The whole pipeline with DVC's remote on S3 and MLflow on PostgreSQL and S3, and a second machine that has it all."""

import copy
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from clones import Clone
from longtail.evaluation import load_predictions
from longtail.images.split_files import load_split
from longtail.serving.predictor import encode_png
from remote_project import METHOD, STAGES
from servers import S3, VARIABLES, MLflow

pytest_plugins = ["remote_fixtures"]
pytestmark = pytest.mark.services

IMAGES = 20
# Arguments: a model's address, a folder of images. In a process of its own, as a user of the model would.
LOAD = """
import json, sys, pathlib, mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
files = sorted(pathlib.Path(sys.argv[2]).iterdir())
answers = model.predict(pd.DataFrame({"image": [file.read_bytes() for file in files]}))
print("ANSWERS " + json.dumps(answers.values.tolist()))
"""


@pytest.fixture(scope="module")
def second(remote: Clone) -> Clone:
    """Another clone in another folder: what git holds, then what DVC pulls."""
    other = copy.copy(remote)
    other.folder = remote.folder.with_name("second")
    subprocess.run(["git", "clone", "--quiet", remote.folder, other.folder], check=True)
    assert not (other.folder / "models").exists()
    other.run("dvc", "pull")
    return other


def runs(server: MLflow) -> list[Run]:
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("longtail")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file that a stage wrote."""
    outputs = ("data/split", "models", "features", "classifiers", "evaluations", "reports")
    files = [path for name in outputs for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_a_second_clone_pulls_everything_and_has_nothing_to_run(
    remote: Clone, second: Clone, mlflow_server: MLflow
) -> None:
    before = {run.info.run_id for run in runs(mlflow_server)}
    assert digests(second.folder) == digests(remote.folder)
    assert len(digests(remote.folder)) > len(STAGES)
    assert json.loads(second.run("dvc", "status", "--json")) == {}
    assert "Running stage" not in second.run("dvc", "repro")
    assert json.loads(second.run("dvc", "status", "--cloud", "--json")) == {}
    assert second.run("git", "status", "--porcelain") == ""
    assert {run.info.run_id for run in runs(mlflow_server)} == before


def test_every_output_lies_on_s3_once(remote: Clone, s3: S3) -> None:
    lock = yaml.safe_load((remote.folder / "dvc.lock").read_text())
    outputs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    cached = [out["md5"] for out in outputs if not out["path"].startswith(("reports/l", "reports/m"))]
    keys = s3.keys(VARIABLES["DVC_BUCKET"])
    for digest in cached:
        assert f"files/md5/{digest[:2]}/{digest[2:]}" in keys
    remote.run("dvc", "push")
    assert s3.keys(VARIABLES["DVC_BUCKET"]) == keys


@pytest.mark.usefixtures("remote")
def test_the_database_holds_one_finished_run_per_stage(mlflow_server: MLflow) -> None:
    (parent,) = (run for run in runs(mlflow_server) if "mlflow.parentRunId" not in run.data.tags)
    stages = [run for run in runs(mlflow_server) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in stages) == sorted(stage.replace("@", " ") for stage in STAGES)
    assert {run.info.status for run in [parent, *stages]} == {"FINISHED"}
    assert f"{METHOD}/overall" in parent.data.metrics


def model_of(server: MLflow) -> str:
    """Return the id of the model that the method's evaluation logged."""
    (run,) = (run for run in runs(server) if run.info.run_name == f"evaluate {METHOD}")
    assert run.outputs is not None
    (model,) = run.outputs.model_outputs
    return str(model.model_id)


def test_the_model_loads_from_the_server_and_answers_what_evaluate_recorded(
    remote: Clone, mlflow_server: MLflow, tmp_path: Path
) -> None:
    split = load_split(remote.folder / "data" / "split")
    assert isinstance(split.test.images, torch.Tensor)
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        (tmp_path / "images" / f"{i:03}.png").write_bytes(encode_png(split.test.images[i]))
    printed = remote.run("python", "-c", LOAD, f"models:/{model_of(mlflow_server)}", str(tmp_path / "images"))
    answered = torch.tensor(json.loads(printed.split("ANSWERS ")[1].splitlines()[0]))
    recorded = load_predictions(remote.folder / "evaluations" / METHOD / "seed_0.safetensors").probabilities[:IMAGES]
    torch.testing.assert_close(answered, recorded, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("remote")
def test_models_and_plots_lie_on_s3(mlflow_server: MLflow, s3: S3) -> None:
    keys = s3.keys(VARIABLES["MLFLOW_BUCKET"])
    assert any(key.endswith("class_counts.png") for key in keys)
    model = model_of(mlflow_server)
    mine = [key for key in keys if model in key]
    assert any(key.endswith("MLmodel") for key in mine) and any(key.endswith(".safetensors") for key in mine)
    assert all(keys[key] for key in mine if not key.endswith("__init__.py"))


def test_missing_keys_are_said_by_dvc_and_what_is_there_stays(second: Clone, tmp_path: Path) -> None:
    before = digests(second.folder)
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    assert "Unable to locate credentials" in second.run("dvc", "pull", "--force", code=1, **nothing)
    assert digests(second.folder) == before
