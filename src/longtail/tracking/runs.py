"""Parent and nested runs: how they are found again, made, and given the status that is true of them."""

from __future__ import annotations

import os
import socket
import textwrap
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.git import GitError, git
from longtail.params import Params
from longtail.report.provenance import commit
from longtail.tracking.outputs import Numbers, Outputs, flat_params, params_of
from longtail.tracking.server import Server, dvc_command
from longtail.workspace import code_digest, digest_of

if TYPE_CHECKING:
    from mlflow.entities import Run

KEY, WORKSPACE, COMMAND = "longtail.key", "longtail.workspace", "longtail.command"  # of parents
STAGE, CONTENT = "longtail.stage", "longtail.content"  # of nested runs
PARENT = "mlflow.parentRunId"
DVC = {"DVC_EXP_NAME": "dvc.exp_name", "DVC_EXP_BASELINE_REV": "dvc.exp_baseline_rev"}
WORST_FIRST = ("RUNNING", "FAILED", "KILLED")
MAX_RUNS, MAX_PARAMS, MAX_METRICS, MAX_TEXT = 1000, 100, 1000, 6000  # mlflow's limits


def pipeline_key(params: Params) -> str:
    """Identify a pipeline run under plain `dvc repro`: what is computed, by which code, where."""
    return digest_of(params.model_dump(mode="json"), code_digest(), _workspace())


def _workspace() -> str:
    return digest_of(socket.gethostname(), str(Path.cwd()), os.environ.get("DVC_EXP_NAME"))


def _command() -> str | None:
    """Identify the DVC command and the folder that it works in: a queue's worker runs several experiments."""
    command = dvc_command()
    return None if command is None else digest_of(command, _workspace())


def join_parent(server: Server, params: Params, stage: str) -> str:
    """Find or make the parent run of a stage that no flow has started, and say that it is running.

    It is the one of the DVC command that runs the stage, else the one that a killed or failed command has left.
    """
    key, command = pipeline_key(params), _command()
    mine = _search(server, {COMMAND: command})[:1] if command else []
    if mine:
        _complete_params(server, mine[0], _all_params(params))
    parent = mine[0].info.run_id if mine else find_parent(server, params, {stage, "report"})
    parent = parent or make_parent(server, params, key, "dvc repro")
    if command and not mine:
        server.client.set_tag(parent, COMMAND, command)
    server.client.update_run(parent, status="RUNNING")
    return parent


def find_parent(server: Server, params: Params, about_to_run: Collection[str]) -> str | None:
    """Return the newest parent run of the pipeline; None if a stage that is about to run has already finished in it.

    A stage that runs again, or after the report, belongs to another pipeline run (`dvc repro --force`).
    """
    for parent in _search(server, {KEY: pipeline_key(params)})[:1]:
        done = {child.data.tags[STAGE] for child in children(server, parent.info.run_id, "FINISHED")}
        if not done & {*about_to_run}:
            _complete_params(server, parent, _all_params(params))
            return str(parent.info.run_id)
    return None


def make_parent(server: Server, params: Params, key: str, reason: str) -> str:
    """Make a parent run, and close those that were killed in this working folder and never continued."""
    for left in _search(server, {WORKSPACE: _workspace()}, "RUNNING"):
        abandon(server, left.info.run_id)
    tags = {KEY: key, WORKSPACE: _workspace(), "longtail.reason": reason, **_versions()}
    parts = [os.environ.get("DVC_EXP_NAME"), params.data.name, ", ".join(params.methods)]
    name = textwrap.shorten(": ".join(part for part in parts if part), 100, placeholder=" …")
    run = server.client.create_run(server.experiment, tags=tags, run_name=name)
    log_params(server, run.info.run_id, _all_params(params))
    return str(run.info.run_id)


def _all_params(params: Params) -> dict[str, str]:
    return flat_params(params.model_dump(mode="json"))


def abandon(server: Server, parent: str) -> None:
    """Mark as KILLED what still runs under a parent that nobody will continue, and settle the parent."""
    for child in children(server, parent, "RUNNING"):
        server.client.set_terminated(child.info.run_id, "KILLED")
    settle(server, parent)


def settle(server: Server, parent: str) -> None:
    """Give a parent the worst status of its stages' last attempts.

    No stage knows whether another one follows: each opens the parent and closes it if it is the last one running.
    """
    last = {child.data.tags[STAGE]: child.info.status for child in reversed(children(server, parent))}
    status = next((worst for worst in WORST_FIRST if worst in last.values()), "FINISHED")
    if status != "RUNNING":
        server.client.set_terminated(parent, status)


def open_child(server: Server, parent: str, outputs: Outputs, params: Params) -> tuple[str, bool]:
    """Return the run of a stage, and whether it is one that was killed before and is now continued."""
    for run in children(server, parent, "RUNNING"):
        if run.data.tags[STAGE] == outputs.name:
            _complete_params(server, run, params_of(outputs, params))
            return str(run.info.run_id), True
    tags = {PARENT: parent, STAGE: outputs.name, **_versions()}
    run = server.client.create_run(server.experiment, tags=tags, run_name=f"{outputs.stage} {outputs.row}".strip())
    log_params(server, run.info.run_id, params_of(outputs, params))
    return str(run.info.run_id), False


def children(server: Server, parent: str, status: str | None = None) -> list[Run]:
    """Return the nested runs of a parent, newest first."""
    return _search(server, {PARENT: parent}, status)


def is_recorded(server: Server, content: str) -> bool:
    """Say whether some finished run holds exactly these outputs."""
    return bool(_search(server, {CONTENT: content}, "FINISHED"))


def holder(server: Server, content: str) -> str:
    """Return the finished run that holds exactly these outputs."""
    return str(_search(server, {CONTENT: content}, "FINISHED")[0].info.run_id)


def log_params(server: Server, run: str, params: Mapping[str, str]) -> None:
    """Log parameters; mlflow takes 100 at a time."""
    from mlflow.entities import Param

    entities = [Param(name, text[:MAX_TEXT]) for name, text in params.items()]
    for start in range(0, len(entities), MAX_PARAMS):
        server.client.log_batch(run, params=entities[start : start + MAX_PARAMS])


def _complete_params(server: Server, run: Run, params: Mapping[str, str]) -> None:
    """Log the parameters of a run whose server died between making it and taking them."""
    log_params(server, run.info.run_id, {name: text for name, text in params.items() if name not in run.data.params})


def log_numbers(server: Server, run: str, steps: Mapping[int, Numbers]) -> None:
    """Log the metrics of epochs in as few calls as mlflow allows, since each call costs the same.

    Args:
        steps: epoch -> name -> number.
    """
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    entities = [Metric(name, n, now, step) for step, numbers in steps.items() for name, n in numbers.items()]
    for start in range(0, len(entities), MAX_METRICS):
        server.client.log_batch(run, metrics=entities[start : start + MAX_METRICS])


def log_results(server: Server, run: str, numbers: Numbers) -> None:
    """Log the metrics that have no epochs, unless the run shows these values already."""
    shown = server.client.get_run(run).data.metrics
    log_numbers(server, run, {0: {name: number for name, number in numbers.items() if shown.get(name) != number}})


def logged_points(server: Server, run: str, prefix: str) -> set[tuple[str, int]]:
    """Return name and epoch of all that `run` holds of the metrics whose names start with `prefix`."""
    names = [name for name in server.client.get_run(run).data.metrics if name.startswith(prefix)]
    return {(name, metric.step) for name in names for metric in server.client.get_metric_history(run, name)}


def _search(server: Server, tags: Mapping[str, str], status: str | None = None) -> list[Run]:
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    conditions += [f"attributes.status = '{status}'"] if status else []
    wanted, newest_first = " and ".join(conditions), ["attributes.start_time DESC"]
    return list(server.client.search_runs([server.experiment], wanted, max_results=MAX_RUNS, order_by=newest_first))


def _versions() -> dict[str, str]:
    """Return git commit (short: with +dirty if it is not what ran) and DVC experiment as tags."""
    tags = {tag: os.environ[name] for name, tag in DVC.items() if os.environ.get(name)}
    with suppress(GitError):  # not in a git repository: no commit to name
        tags |= {"mlflow.source.git.commit": git(Path(), "rev-parse", "HEAD"), "longtail.commit": commit(Path())}
    return tags
