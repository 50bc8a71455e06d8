"""A repository that retrains an image folder; a module that needs it says `pytest_plugins`."""

import shutil
from pathlib import Path

import pytest

import photos
from clones import ROOT, Clone
from pipelines.notify import WEBHOOK


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose params.yaml retrains an image folder."""
    clone = Clone(tmp_path_factory.mktemp("nightly") / "repository")
    clone.folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "benchmarks" / "own_images.yaml", clone.folder / "params.yaml")
    clone.commit()
    return clone.folder


@pytest.fixture
def root(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with images, and with MLflow on its own sqlite file."""
    for name in ("LONGTAIL_DATA", "LONGTAIL_HOME", "LONGTAIL_TRACKING", "MLFLOW_TRACKING_URI", WEBHOOK):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "repository"
    shutil.copytree(committed, folder)
    photos.write_photos(folder / "data" / "raw" / "mine", photos.FEW)
    return folder
