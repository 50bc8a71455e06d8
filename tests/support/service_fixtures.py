"""Servers that the tests here share, skipped where a program is missing; who needs them says `pytest_plugins`."""

from collections.abc import Iterator

import pytest

from running import QUIET
from servers import CREDENTIALS, S3, VARIABLES, MLflow, PostgreSQL, unavailable


def _skip_without(*parts: str) -> None:
    for part in parts:
        if reason := unavailable().get(part):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server with the databases that MLflow and Prefect expect."""
    _skip_without("postgresql")
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server with MLflow's bucket and DVC's."""
    _skip_without("s3")
    with S3(tmp_path_factory.mktemp("s3")) as server:
        for bucket in (VARIABLES["MLFLOW_BUCKET"], VARIABLES["DVC_BUCKET"]):
            server.client().create_bucket(Bucket=bucket)
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL, s3: S3) -> Iterator[MLflow]:
    """MLflow's server, as deploy/compose.yaml runs it."""
    with MLflow(tmp_path_factory.mktemp("mlflow"), postgresql, s3) as server:
        yield server


@pytest.fixture(scope="session")
def remote_variables(mlflow_server: MLflow) -> dict[str, str]:
    """What a machine that trains has in its environment: docs/deployment.md."""
    return {**QUIET, **CREDENTIALS, "LONGTAIL_TRACKING": "on", "MLFLOW_TRACKING_URI": mlflow_server.address}
