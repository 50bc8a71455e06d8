import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact, FlowRun, State, TaskRun
from prefect.settings import PREFECT_API_URL

from pipelines.failures import PipelineError, TransientError, UserError
from pipelines.train import LineLog, describe, main, train
from small_project import has_ended

pytest_plugins = ["pipeline_fixtures"]

pytestmark = pytest.mark.usefixtures("prefect_server")


class Seen:
    """What a Prefect server shows of a flow run."""

    def __init__(self, state: State[Any]) -> None:
        assert state.state_details.flow_run_id is not None
        self.state = state
        self.flow_run, tasks, self.artifacts = asyncio.run(_look(state.state_details.flow_run_id))
        self.tasks = {task.name: task for task in tasks}

    def state_names(self) -> dict[str, str | None]:
        return {name: task.state_name for name, task in self.tasks.items() if name != "params"}


async def _look(flow_run: UUID) -> tuple[FlowRun, list[TaskRun], list[Artifact]]:
    this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    of_this = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    async with get_client() as client:
        run = await client.read_flow_run(flow_run)
        return (
            run,
            await client.read_task_runs(flow_run_filter=this),
            await client.read_artifacts(artifact_filter=of_this),
        )


def run_flow(project: Path, **options: Any) -> Seen:
    return Seen(train(project, return_state=True, **options))


def test_a_stage_is_one_task_whose_state_says_what_happened(project: Path) -> None:
    seen = run_flow(project)
    assert seen.state.is_completed()
    assert seen.state_names() == dict.fromkeys(["split", "train@ce", "train@glag", "report"], "Completed")
    assert seen.flow_run.name == describe(project)
    (artifact,) = seen.artifacts
    assert "| ce | 50 % |" in str(artifact.data)
    assert "Completed: split, train@ce, train@glag, report" in str(artifact.data)

    (project / "data.txt").unlink()  # DVC still has it
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]"))  # no stage here reads it
    again = run_flow(project)
    assert again.state_names() == dict.fromkeys(["train@ce", "train@glag", "report"], "Up to date") | {
        "split": "Cached"
    }


def test_a_killed_stage_is_tried_again(project: Path) -> None:
    (project / "trouble" / "train@ce").write_text("rm trouble/train@ce; kill -9 $$\n")
    seen = run_flow(project, retry_delays=(0.0,))
    assert seen.state.is_completed()
    assert seen.tasks["train@ce"].run_count == 2
    assert seen.tasks["split"].run_count == 1


def test_tries_are_counted(project: Path) -> None:
    (project / "trouble" / "split").write_text("echo once >>tries; kill -9 $$\n")
    seen = run_flow(project, retry_delays=(0.0,))
    assert seen.state.is_failed()
    assert (project / "tries").read_text() == "once\nonce\n"
    with pytest.raises(TransientError, match="SIGKILL"):
        seen.state.result()


@pytest.mark.parametrize(("status", "kind"), [(2, UserError), (1, PipelineError)])
def test_a_failure_that_would_repeat_is_not_tried_again(project: Path, status: int, kind: type[Exception]) -> None:
    (project / "trouble" / "split").write_text(f"echo once >>tries; echo 'split: no images' >&2; exit {status}\n")
    seen = run_flow(project, retry_delays=(0.0, 0.0))
    assert seen.state.is_failed()
    assert (project / "tries").read_text() == "once\n"
    assert set(seen.tasks) == {"params", "split"}
    with pytest.raises(kind, match="split: no images"):
        seen.state.result()


def test_a_stage_over_its_time_is_stopped_and_the_flow_fails(project: Path) -> None:
    (project / "trouble" / "split").write_text("echo once >>tries; sleep 60\n")
    seen = run_flow(project, stage_timeout=2.0, retry_delays=(0.0,))
    assert seen.state.is_failed()
    with pytest.raises(PipelineError, match="split took too long"):
        seen.state.result()


def test_params_are_checked_before_any_stage(project: Path) -> None:
    (project / "params.yaml").write_text("sedes: [0]\n")
    seen = run_flow(project)
    assert set(seen.tasks) == {"params"}
    assert seen.flow_run.name == "params.yaml does not hold"
    with pytest.raises(UserError, match="seeds is missing"):
        seen.state.result()


@pytest.mark.parametrize("code", [1, 2])
def test_the_exit_code_tells_whose_fault_it_was(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    (project / "trouble" / "split").write_text(f"echo 'split: no images'; exit {code}\n")
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["pipelines.train"])
    assert main() == code
    assert capsys.readouterr().err.rstrip().endswith("split: no images")


def test_a_flow_that_is_stopped_leaves_no_process(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "trouble" / "split").write_text("echo $$ > child; exec sleep 60\n")
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    with subprocess.Popen([sys.executable, "-m", "pipelines.train"], cwd=project, stderr=subprocess.PIPE) as process:
        while not (project / "child").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert has_ended(project / "child")


def test_a_name_says_what_is_trained(tmp_path: Path) -> None:
    data = {"name": "cifar100", "profile": "exponential", "imbalance_factor": 100}
    params = {"seeds": [0, 1], "data": data, "methods": {"ce": {}, "glag": {}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert describe(tmp_path) == "cifar100 · exponential 100 · ce, glag · seeds 0, 1"
    params["methods"] = {f"row_{i}": {} for i in range(20)}
    params["data"] = {"name": "image_folder", "profile": "natural"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert describe(tmp_path) == "image_folder · natural · 20 methods · seeds 0, 1"


def test_lines_are_logged_whole_and_bars_once() -> None:
    lines: list[str] = []
    log = LineLog(lines.append)
    plus_minus = "±".encode()
    for piece in (b"one\ntwo ", plus_minus[:1], plus_minus[1:] + b"\n\n10%\r50%\r100%\r\nend"):
        log(piece)
    assert lines == ["one", "two ±", "100%"]
    log.flush()
    assert lines[-1] == "end"
