"""Fixtures for the tests around the stages; a module that needs them says `pytest_plugins`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from small_project import CHECK, REPOSITORY, RESULTS, SCRIPT, STAGES, git


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed DVC project with this repository's params.yaml and DVC configuration."""
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(REPOSITORY / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(REPOSITORY / "params.yaml", root)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "stage.sh").write_text(SCRIPT)
    (root / "src" / "longtail").mkdir(parents=True)
    (root / "src" / "longtail" / "__init__.py").touch()
    (root / "src" / "longtail" / "params.py").write_text(CHECK)
    (root / "src" / "longtail" / "report").mkdir()
    (root / "src" / "longtail" / "report" / "results.py").write_text(RESULTS)
    (root / "seed.txt").write_text("| method | overall |\n| :--- | ---: |\n| ce | 50 % |\n")
    (root / ".gitignore").write_text("/data.txt\n/models\n/trouble\n/.longtail\n__pycache__\n")
    git(root.parent, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=project")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project; programs started in it find longtail and pipelines, and track nothing."""
    root = tmp_path / "project"
    shutil.copytree(template, root)
    (root / "trouble").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]))
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    return root


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the tests' own; starting it takes seconds, so there is one."""
    with prefect_test_harness():
        yield
