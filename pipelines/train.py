"""The DVC graph as a Prefect flow: one task per stage, retries for what passes by itself, the leaderboard as artifact.

    python -m pipelines.train [--stage-timeout MINUTES]

DVC decides what runs, Prefect in which order and how often, MLflow records. Works without a Prefect server; with
PREFECT_API_URL set, flow and tasks are seen there. Exit codes: 0, 2 for what the user can mend, 1 otherwise.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from pipelines import stage_graph
from pipelines.failures import PipelineError, TransientError, failure_of
from pipelines.processes import run
from pipelines.repro import DVC, check_params

RETRY_DELAYS = (10.0, 60.0)  # seconds before the second and the third try of a stage
SHOWN_METHODS = 6  # in a run's name


class LineLog:
    """Turns pieces of output into lines for `log`; of a progress bar only its last state is kept."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self.log = log
        self.rest = b""

    def __call__(self, piece: bytes) -> None:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            self._send(line)

    def flush(self) -> None:
        """Send a last line that has no end."""
        self._send(self.rest)
        self.rest = b""

    def _send(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace").rstrip()
        if text:
            self.log(text)


@contextmanager
def logged() -> Iterator[LineLog]:
    log = LineLog(get_run_logger().info)
    try:
        yield log
    finally:
        log.flush()


def _passes_by_itself(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, TransientError)


@task(task_run_name="params", cache_policy=NO_CACHE)
def check(root: Path) -> None:
    """Validate the whole of params.yaml before anything runs."""
    with logged() as log:
        check_params(root, log)


@task(task_run_name="{stage}", cache_policy=NO_CACHE, retry_condition_fn=_passes_by_itself)
def reproduce_stage(stage: str, root: Path, timeout: float | None, parent: str | None) -> State[None]:
    """Bring one DVC stage up to date; the state's name says whether it ran.

    Args:
        timeout: seconds for the stage, or None.
        parent: the MLflow run that the stage's run belongs to.

    Returns:
        Completed (it ran), Cached (DVC had made these outputs before) or Up to date.
    """
    before = stage_graph.recorded(root, stage)
    extra = {"LONGTAIL_PARENT_RUN": parent} if parent else {}
    with logged() as log:
        finished = run([*DVC, "repro", "--single-item", stage], root, log, extra=extra, timeout=timeout)
    if failure := failure_of(finished, stage):
        raise failure
    return Completed(name=_what_happened(finished.output, before == stage_graph.recorded(root, stage)))


def _what_happened(output: str, same_record: bool) -> str:
    if "Running stage '" in output:
        return "Completed"
    return "Up to date" if same_record and "is cached - skipping run" not in output else "Cached"


def describe(root: Path) -> str:
    """Say what a run trains: data, imbalance, methods, seeds."""
    try:
        params = yaml.safe_load((root / "params.yaml").read_text())
        data, methods = params["data"], list(params["methods"])
        shown = ", ".join(methods) if len(methods) <= SHOWN_METHODS else f"{len(methods)} methods"
        tail = f"{data['profile']} {data.get('imbalance_factor') or ''}".strip()
        return f"{data['name']} · {tail} · {shown} · seeds {', '.join(map(str, params['seeds']))}"
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return "params.yaml does not hold"  # the first task says why


def _run_name() -> str:
    return describe(Path(flow_run.parameters["root"]))


@contextmanager
def _parent_run(reason: str, root: Path) -> Iterator[str | None]:
    """Hold the MLflow run above all stages of this flow."""
    from longtail.tracking import close_parent, open_parent  # here: it may import mlflow, which takes its time

    parent, status = open_parent(reason, root), "KILLED"
    try:
        yield parent
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        close_parent(parent, status, root)


def _publish(root: Path, states: dict[str, str]) -> None:
    """Keep the leaderboard as an artifact of the flow run, with what each stage did."""
    by_state: defaultdict[str, list[str]] = defaultdict(list)
    for stage, state in states.items():
        by_state[state].append(stage)
    stages = "\n".join(f"- {state}: {', '.join(names)}" for state, names in by_state.items())
    markdown = f"{(root / 'reports' / 'leaderboard.md').read_text()}\n## Stages\n\n{stages}\n"
    create_markdown_artifact(key="leaderboard", markdown=markdown, description=describe(root))


def run_graph(root: Path, stage_timeout: float | None, retry_delays: tuple[float, ...]) -> dict[str, str]:
    """Run the stages as tasks of the present flow and return what each did: stage -> state name.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    reproduce = reproduce_stage.with_options(retries=len(retry_delays), retry_delay_seconds=list(retry_delays))
    check(root)
    with _parent_run(f"Prefect flow run {flow_run.name} ({flow_run.id})", root) as parent:
        stages = stage_graph.stages(root)
        return {stage: str(reproduce(stage, root, stage_timeout, parent).name) for stage in stages}


@flow(name="train", flow_run_name=_run_name)
def train(
    root: Path, stage_timeout: float | None = None, retry_delays: tuple[float, ...] = RETRY_DELAYS
) -> State[None]:
    """Reproduce the DVC graph in root, stage by stage.

    Args:
        stage_timeout: seconds after which a stage is stopped with all its processes and the flow fails.
        retry_delays: seconds before each further try of a stage that failed for a passing reason.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    try:
        states = run_graph(root, stage_timeout, retry_delays)
    except PipelineError as failure:
        return Failed(message=str(failure), data=failure)  # raised here, a page of Prefect's own calls would be logged
    _publish(root, states)
    return Completed()


def main() -> int:
    """Run the flow in the current directory and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.train", description="Run the DVC graph as a Prefect flow."
    )
    parser.add_argument("--stage-timeout", type=float, metavar="MINUTES", help="stop a stage that takes longer")
    minutes = parser.parse_args().stage_timeout
    try:
        train(Path.cwd(), minutes and minutes * 60)
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
