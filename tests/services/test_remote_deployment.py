"""What deploy/ starts, started here: MLflow behind its list of names, Prefect on PostgreSQL, setup.py, a worker."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from clones import Clone
from running import HOST, QUIET, READY_SECONDS, free_port
from servers import CREDENTIALS, S3, Composed, MLflow, PostgreSQL, Prefect

pytest_plugins = ["service_fixtures"]
pytestmark = pytest.mark.services

BUCKETS = {"MLFLOW_BUCKET": "models", "DVC_BUCKET": "outputs"}  # not those of the other tests: setup makes them


class Worker(Composed):
    """The worker of deploy/compose.yaml, in a clone here."""

    name, inside, health = "worker", "8080", "/health"

    def __init__(self, clone: Clone, variables: Mapping[str, str], postgresql: PostgreSQL) -> None:
        super().__init__(clone.folder, postgresql)
        self.variables = variables

    def environment(self) -> Mapping[str, str]:
        """Return the file's variables, with the addresses that hold here."""
        here = {"PYTHONPATH": "src:.", "PREFECT_WORKER_WEBSERVER_PORT": str(self.port)}
        return {**self.composed.environment, **self.variables, **here}


@pytest.fixture(scope="module")
def prefect_on_postgresql(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Prefect]:
    with Prefect(tmp_path_factory.mktemp("prefect"), postgresql) as server:
        yield server


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("deployed"))
    made.commit()
    return made


@pytest.fixture(scope="module")
def variables(
    clone: Clone, prefect_on_postgresql: Prefect, s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What compose.yaml gives the worker and setup."""
    return {
        **QUIET,
        **CREDENTIALS,
        **BUCKETS,
        "S3_ENDPOINT_URL": s3.address,
        "PREFECT_API_URL": f"{prefect_on_postgresql.address}/api",
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect_home")),
        "LONGTAIL_ROOT": str(clone.folder),
    }


def asked(server: MLflow, host: str) -> int:
    """Ask MLflow for an experiment under some name of the machine; return the status."""
    address = f"{server.address}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host})) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_mlflow_answers_to_the_name_that_it_has_inside_compose_and_to_no_strange_one(mlflow_server: MLflow) -> None:
    assert asked(mlflow_server, f"mlflow:{mlflow_server.port}") == 200
    assert asked(mlflow_server, f"localhost:{free_port()}") == 200
    assert asked(mlflow_server, "elsewhere.example") == 403


def posted(address: str, document: object = None) -> list[dict[str, object]]:
    request = urllib.request.Request(
        address, data=json.dumps(document or {}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        found: list[dict[str, object]] = json.load(response)
    return found


def test_setup_makes_buckets_pool_and_deployment_and_may_be_repeated(
    clone: Clone, variables: dict[str, str], s3: S3
) -> None:
    first = clone.run("python", "deploy/setup.py", code=0, **variables)
    assert all(f"Made the bucket {name}." in first for name in BUCKETS.values())
    assert "Made the bucket" not in clone.run("python", "deploy/setup.py", code=0, **variables)
    assert {bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]} >= set(BUCKETS.values())
    (pool,) = posted(f"{variables['PREFECT_API_URL']}/work_pools/filter")
    assert (pool["name"], pool["type"]) == ("longtail", "process")
    (deployment,) = posted(f"{variables['PREFECT_API_URL']}/deployments/filter")
    assert (deployment["name"], deployment["work_pool_name"]) == ("nightly", "longtail")
    assert str(clone.folder) in json.dumps(deployment["pull_steps"])


def test_the_worker_starts_and_its_health_check_sees_it(
    clone: Clone, variables: dict[str, str], postgresql: PostgreSQL
) -> None:
    with Worker(clone, variables, postgresql) as worker:
        workers: list[dict[str, object]] = []
        last = time.monotonic() + READY_SECONDS
        while not workers and time.monotonic() < last:
            workers = posted(f"{variables['PREFECT_API_URL']}/work_pools/longtail/workers/filter")
        assert [seen["status"] for seen in workers] == ["ONLINE"], worker.log.read_text()


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"S3_ENDPOINT_URL": f"http://{HOST}:9"}, 1, "Could not connect"),
        ({"AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""}, 1, "credentials"),
    ],
)
def test_setup_says_in_a_sentence_what_it_lacks(
    clone: Clone, variables: dict[str, str], tmp_path: Path, changed: dict[str, str], code: int, said: str
) -> None:
    printed = clone.run(sys.executable, "deploy/setup.py", code=code, **(variables | changed | {"HOME": str(tmp_path)}))
    assert said in printed and printed.count("\n") == 1, printed


def test_setup_outside_compose_names_the_variable_that_is_missing(clone: Clone) -> None:
    printed = clone.run("python", "deploy/setup.py", code=2)
    assert printed == "S3_ENDPOINT_URL is not set: run this by compose, or set what compose.yaml sets.\n"
