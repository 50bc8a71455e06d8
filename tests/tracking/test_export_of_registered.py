"""`python -m longtail.serving.export models:/NAME@ALIAS`: the model that the registry holds under that alias."""

from pathlib import Path

import pytest
import torch

from longtail.params import Params
from longtail.serving.export import load
from longtail.serving.predictor import gather
from longtail.spec import InputError
from longtail.tracking.outputs import Outputs
from longtail.tracking.registered_model import Registry
from longtail.tracking.server import connect
from tracked import Recorded, run_stage

pytest_plugins = ["tracking_fixtures"]


def test_a_registered_model_is_found_by_each_of_its_aliases(project: Path, params: Params) -> None:
    first, second = params.methods
    weights = []
    registry = Registry(connect(project), "animals", project)
    for method in (first, second):
        run_stage(Outputs("evaluate", method), params, project)
        evaluated = Recorded.read(f"sqlite:///{project}/mlflow.db").named(f"evaluate {method}")
        registry.promote(registry.register(evaluated.info.run_id, {}).number)
        own = Path("models", params.methods[method].representation), Path("classifiers", method)
        gather(*own, params.seeds[0], project / method)
        weights.append(load(str(project / method)).classifier.weight)
    assert not torch.equal(*weights), "a test that cannot tell the models apart would say nothing"
    assert torch.equal(load("models:/animals@champion").classifier.weight, weights[1])
    assert torch.equal(load("models:/animals@challenger").classifier.weight, weights[1])
    assert torch.equal(load("models:/animals@previous").classifier.weight, weights[0])


def test_a_model_that_nobody_registered_is_named(project: Path) -> None:
    with pytest.raises(InputError, match="No version of plants is called champion"):
        load("models:/plants@champion")


def test_an_mlflow_that_is_away_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be reached"):
        load("models:/animals@champion")
