"""A small pipeline that has run against the shared servers; a module that needs it says `pytest_plugins`."""

import pytest

from clones import Clone
from remote_project import shrink_further
from servers import S3, VARIABLES

pytest_plugins = ["service_fixtures"]


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory, s3: S3, remote_variables: dict[str, str]) -> Clone:
    """A clone whose graph has run, recorded by MLflow's server, pushed to S3 and committed: docs/deployment.md."""
    made = Clone(tmp_path_factory.mktemp("remote") / "first")
    made.environment |= remote_variables
    shrink_further(made)
    made.commit()
    made.run("dvc", "remote", "add", "--default", "storage", f"s3://{VARIABLES['DVC_BUCKET']}")
    made.run("dvc", "remote", "modify", "storage", "endpointurl", s3.address)
    made.commit()
    assert "MLflow" not in made.run("dvc", "repro")
    made.run("dvc", "push")
    made.commit()
    return made
