"""One model per method, as MLflow serves it: a binary column `image` in, one probability per class name out."""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import longtail
from longtail.images.split_files import load_split
from longtail.models.saved import NetworkDescription
from longtail.params import Params
from longtail.serving.predictor import example_image, gather
from longtail.tracking.server import Server

PACKAGES = ("torch", "torchvision", "pillow", "pydantic", "safetensors", "numpy")


def log_model(server: Server, run: str, params: Params, method: str) -> None:
    """Log the method's model of the first seed, unless the run has one.

    Through a loader module and files, not a pickled object, and without mlflow's trial runs of the model: it is the
    same code for every method, and its tests are ours.

    Args:
        run: id of the `evaluate` run that the model belongs to.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    outputs = server.client.get_run(run).outputs
    if outputs is not None and outputs.model_outputs:
        return
    model = server.client.create_logged_model(server.experiment, name=method, source_run_id=run)
    with tempfile.TemporaryDirectory() as scratch:
        described = Model(artifact_path=model.artifact_location, run_id=run, model_id=model.model_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow's, about type hints of its own classes
            _write(Path(scratch), described, params, method)
        server.client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
    server.client.finalize_logged_model(model.model_id, "READY")
    server.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])


def _write(scratch: Path, described: object, params: Params, method: str) -> None:
    import pandas as pd  # type: ignore[import-untyped]
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    representation = Path("models") / params.methods[method].representation
    gather(representation, Path("classifiers") / method, params.seeds[0], scratch / "predictor")
    classes = NetworkDescription.load(representation).classes
    example = example_image(load_split(Path("data/split")).test)
    pyfunc.save_model(
        scratch / "model",
        loader_module="longtail.serving.predictor",
        data_path=str(scratch / "predictor"),
        code_paths=[str(Path(longtail.__file__).parent)],
        mlflow_model=described,
        signature=ModelSignature(
            inputs=Schema([ColSpec("binary", "image")]), outputs=Schema([ColSpec("double", name) for name in classes])
        ),
        input_example=pd.DataFrame({"image": [example]}),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """Return the installed versions of what prediction needs, without local suffixes such as +cpu."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES]
