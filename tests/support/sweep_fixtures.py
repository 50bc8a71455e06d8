"""The project for sweeps as a fixture; a module that needs it says `pytest_plugins`."""

import os
from pathlib import Path

import pytest
import yaml

from small_project import REPOSITORY
from sweep_project import make_sweep_project

pytest_plugins = ["pipeline_fixtures"]


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose trials take a second; programs started in it find longtail, and track nothing."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]))
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    return make_sweep_project(template, tmp_path / "project")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """This repository's params.yaml; the representation `gradual` starts from another row's weights."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["representations"]["first"] = params["representations"]["ce"]
    params["representations"]["gradual"]["start_from"] = "models/first"
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return tmp_path / "digits.yaml"
