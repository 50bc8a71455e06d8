"""The small pipeline that runs against servers, and copies of it that may be spoilt."""

import copy
import shutil
from pathlib import Path

from clones import Clone, shrink

OTHER, METHOD = METHODS = ("graloss", "glag")
STAGES = [
    "split",
    "train@gradual",
    "extract@gradual",
    *(f"{stage}@{method}" for stage in ("finetune", "evaluate") for method in METHODS),
    "report",
]
EPOCHS = 90  # of stage one: long enough for a server to be lost meanwhile


def shrink_further(clone: Clone) -> None:
    """Let stage one take a little longer."""
    params = clone.params()
    shrink(params)
    params["plan"]["epochs"] = EPOCHS
    params["retrain"] = None
    clone.write_params(params)


def copy_of(remote: Clone, folder: Path, address: str, *without: str) -> Clone:
    """Return a copy of a finished clone, recorded by another MLflow, in an experiment of its own.

    Args:
        without: folders that are left out.
    """
    made = copy.copy(remote)
    made.folder = folder / "clone"
    shutil.copytree(remote.folder, made.folder, symlinks=True, ignore=shutil.ignore_patterns(".longtail", *without))
    own = {"MLFLOW_TRACKING_URI": address, "MLFLOW_EXPERIMENT_NAME": folder.name, "PYTHONPATH": "src"}
    made.environment = remote.environment | own
    return made
