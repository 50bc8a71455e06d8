"""A deployment made from prefect.yaml, run by a worker on a one-minute cron: twice, and once more by hand."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from example_nights import decisions, example
from running import QUIET, inherited
from servers import LocalPrefect

pytestmark = pytest.mark.services

BIN = Path(sys.executable).parent
LONGEST = 420.0  # seconds until all three runs have ended


@pytest.fixture
def nights() -> ModuleType:
    return example()


@pytest.fixture
def project(tmp_path: Path, nights: ModuleType) -> Path:
    """A clone with images, a short plan, and a prefect.yaml whose cron fires every minute."""
    root = tmp_path / "longtail"
    nights.prepare(root)
    nights.first_night(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["plan"] |= {"epochs": 2, "warmup": 0}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())
    deployments["deployments"][0]["schedules"] = [{"cron": "* * * * *", "timezone": "UTC"}]
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployments, sort_keys=False))
    return root


@pytest.fixture
def environment(tmp_path: Path, project: Path) -> Iterator[dict[str, str]]:
    """The environment of commands that talk to a Prefect server; the server runs meanwhile."""
    folder = tmp_path / "prefect"
    folder.mkdir()
    with LocalPrefect(folder) as server:
        yield {
            **inherited(),
            **QUIET,
            "PATH": f"{BIN}:/usr/bin:/bin",
            "PREFECT_API_URL": f"{server.address}/api",
            "PREFECT_HOME": str(folder / "client"),
            "LONGTAIL_ROOT": str(project),
        }


def prefect(project: Path, environment: dict[str, str], *words: str) -> str:
    finished = subprocess.run(
        [BIN / "prefect", "--no-prompt", *words], cwd=project, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def flow_runs(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Ask the server for all flow runs with their states, in the order in which they started."""
    asked = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    runs = client.read_flow_runs()
    print(json.dumps([{
        "auto": run.auto_scheduled, "state": run.state_name, "final": run.state.is_final(),
        "start": run.start_time and run.start_time.timestamp(), "end": run.end_time and run.end_time.timestamp(),
        "states": [state.name for state in client.read_flow_run_states(run.id)], "message": run.state.message,
    } for run in runs]))
"""
    printed = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    runs = json.loads(printed.stdout.splitlines()[-1])
    return sorted(runs, key=lambda run: run["start"] or float("inf"))


@contextmanager
def worker(project: Path, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A worker of the pool `longtail`."""
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "longtail"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=file)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_cron_fires_twice_and_a_run_by_hand_waits_its_turn(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    prefect(project, environment, "work-pool", "create", "longtail", "--type", "process")
    prefect(project, environment, "deploy", "--all")
    by_hand, deadline, log = False, time.monotonic() + LONGEST, tmp_path / "worker.log"
    with worker(project, environment, log):
        while True:
            runs = flow_runs(environment)
            if not by_hand and any(run["state"] == "Running" for run in runs):
                prefect(project, environment, "deployment", "run", "retrain/nightly")
                by_hand = True
            ended = [run for run in runs if run["final"]]
            if by_hand and sum(run["auto"] for run in ended) >= 2 and not all(run["auto"] for run in ended):
                break
            assert time.monotonic() < deadline, f"{runs}\n{log.read_text()[-4000:]}"
            time.sleep(2)
    ran = [run for run in ended if run["start"]]
    assert [run["state"] for run in ran] == ["Promoted", *["Nothing changed"] * (len(ran) - 1)], log.read_text()[-4000:]
    for earlier, later in itertools.pairwise(ran):
        assert earlier["end"] <= later["start"]  # one at a time
    (mine,) = (run for run in ran if not run["auto"])
    assert "AwaitingConcurrencySlot" in mine["states"]
    assert decisions(project) == {"1": "promoted"}
