"""The logged model, loaded where longtail is not installed, says what `evaluate` said; and it can be served."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas  # type: ignore[import-untyped]
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.models import Model
from packaging.requirements import Requirement

import tiny
from longtail.evaluation import load_predictions
from longtail.params import Params
from longtail.serving.predictor import encode_png
from longtail.tracking.logged_model import log_model, requirements
from longtail.tracking.outputs import Outputs
from longtail.tracking.server import connect
from tracked import Recorded, run_stage

# Arguments: the model, a folder of PNGs. Prints as JSON the answers of the loaded model and of the scoring server.
pytest_plugins = ["tracking_fixtures"]

ELSEWHERE = """
import base64, importlib.util, json, pathlib, sys
sys.path = [entry for entry in sys.path if not pathlib.Path(entry, "longtail").exists()]  # an editable install
assert importlib.util.find_spec("longtail") is None, "this process must not find longtail by itself"
sys.modules |= dict.fromkeys(["torchmetrics", "rich", "matplotlib"])  # not required by the model: importing them fails
import mlflow, pandas
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
model = mlflow.pyfunc.load_model(sys.argv[1])
files = sorted(pathlib.Path(sys.argv[2]).glob("*.png"))
answer = model.predict(pandas.DataFrame({"image": [file.read_bytes() for file in files]}))
encoded = [[base64.b64encode(file.read_bytes()).decode()] for file in files]
request = {"dataframe_split": {"columns": ["image"], "data": encoded}}
served = TestClient(scoring_server.init(model)).post("/invocations", json=request).json()
served, rows = served["predictions"], answer.to_numpy().tolist()
print(json.dumps({"columns": list(answer.columns), "rows": rows, "served": served}))
"""


@pytest.fixture
def method(project: Path, params: Params) -> str:
    """The second method, evaluated and recorded."""
    method = list(params.methods)[1]
    run_stage(Outputs("evaluate", method), params, project)
    return method


def model_of(project: Path, method: str) -> LoggedModel:
    """Return the one model that the method's evaluation has logged."""
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    run = Recorded.read(f"sqlite:///{project}/mlflow.db").named(f"evaluate {method}")
    outputs = client.get_run(run.info.run_id).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    return client.get_logged_model(output.model_id)


def test_loaded_elsewhere_and_served_it_says_what_evaluate_recorded(
    project: Path, params: Params, method: str, tmp_path: Path
) -> None:
    images = tiny.make_split().test.images
    assert isinstance(images, torch.Tensor)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        (tmp_path / "images" / f"{i:03}.png").write_bytes(encode_png(image))
    location = model_of(project, method).artifact_location
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, location, str(tmp_path / "images")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    recorded = load_predictions(project / f"evaluations/{method}/seed_{params.seeds[0]}.safetensors").probabilities
    assert tuple(answer["columns"]) == tiny.make_split().classes
    torch.testing.assert_close(torch.tensor(answer["rows"]), recorded, atol=1e-5, rtol=0)
    served = torch.tensor([[row[name] for name in answer["columns"]] for row in answer["served"]])
    torch.testing.assert_close(served, recorded, atol=1e-5, rtol=0)


def test_it_is_ready_and_states_what_goes_in_what_comes_out_and_what_it_needs(project: Path, method: str) -> None:
    model = model_of(project, method)
    assert (model.name, str(model.status)) == (method, "READY")
    described = Model.load(model.artifact_location)
    assert [(column.name, column.type.name) for column in described.signature.inputs] == [("image", "binary")]
    outputs = [(column.name, column.type.name) for column in described.signature.outputs]
    assert outputs == [(name, "double") for name in tiny.make_split().classes]
    example = described.load_input_example(model.artifact_location)
    assert isinstance(example, pandas.DataFrame)
    assert example["image"][0].startswith(b"\x89PNG")
    written = {
        Requirement(line).name for line in Path(model.artifact_location, "requirements.txt").read_text().splitlines()
    }
    assert written == {"mlflow", "torch", "torchvision", "pillow", "pydantic", "safetensors", "numpy"}


def test_requirements_are_the_installed_versions_without_local_suffix() -> None:
    for line in map(Requirement, requirements()):
        assert line.specifier.contains(version(line.name))
        assert "+" not in str(line)


def test_the_same_run_logs_it_once(project: Path, params: Params, method: str) -> None:
    database = f"sqlite:///{project}/mlflow.db"
    run = Recorded.read(database).named(f"evaluate {method}").info.run_id
    log_model(connect(project), run, params, method)
    assert model_of(project, method).source_run_id == run


def test_a_model_logged_before_the_rooms_loads_beside_this_package(project: Path, method: str, tmp_path: Path) -> None:
    """The loader that stands in it is longtail.prediction, and this process has imported another longtail."""
    from mlflow import pyfunc

    images = tiny.make_split().test.images
    assert isinstance(images, torch.Tensor)
    asked = pandas.DataFrame({"image": [encode_png(image) for image in images[:5]]})
    source = model_of(project, method).artifact_location
    older = Path(shutil.copytree(source, tmp_path / "older"))
    about = older / "MLmodel"
    assert "loader_module: longtail.serving.predictor" in about.read_text()
    about.write_text(about.read_text().replace("longtail.serving.predictor", "longtail.prediction"))
    answers, expected = (pyfunc.load_model(str(model)).predict(asked) for model in (older, source))
    assert answers.equals(expected)
