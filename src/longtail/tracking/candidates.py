"""A trained model as a candidate for serving: its registered version, and the decision about it as an MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longtail.params import Params
from longtail.tracking import runs
from longtail.tracking.outputs import Numbers, Outputs, flat_params
from longtail.tracking.registered_model import Registry, trouble
from longtail.tracking.server import Server
from longtail.tracking.sync import sync
from longtail.tracking.versions import Version

DATA, RECIPE, DECISION, REASON = "longtail.data", "longtail.recipe", "longtail.decision", "longtail.reason"
PASSED, PROMOTED, REFUSED = "passed", "promoted", "refused"  # the gate's word; promoted: and it was served
STORES = {"mlflow", "requests", "sqlalchemy", "botocore"}  # whose errors are MLflow's
MAX_TAG = 4000  # characters of a version's tag that any store of MLflow's takes


@dataclass(frozen=True)
class Verdict:
    """What was decided about a version, with everything behind it.

    Args:
        word: PASSED or REFUSED.
        reason: in a sentence or two.
        numbers: metrics of the decision's run.
        document: the decision, as JSON.
        report: markdown.
        files: further artifacts.
    """

    word: str
    reason: str
    report: str
    numbers: Numbers = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def register_trained(registry: Registry, params: Params, folder: Path, tags: Mapping[str, str]) -> Version:
    """Register the model of the one method that a clone has evaluated; what MLflow misses is sent first.

    Args:
        folder: the clone; its outputs say which model it is.
        tags: of the version.
    """
    (method,) = params.methods
    with chdir(folder):
        sync(registry.server, params, registry.root)
        content = Outputs("evaluate", method).digest()
        assert content is not None, "the graph has just run"
        return registry.register(runs.holder(registry.server, content), tags)


def is_settled(version: Version) -> bool:
    """Say whether a version was decided about, and served if it passed."""
    return version.tags.get(DECISION) in (PROMOTED, REFUSED)


def log_verdict(server: Server, version: Version, params: Params, verdict: Verdict) -> str:
    """Log a decision as a run beside the stages' runs, and return the run's id."""
    parent = server.client.get_run(version.run).data.tags.get(runs.PARENT)
    gate = params.retrain.gate.model_dump(mode="json") if params.retrain else {}
    tags = {**version.tags, DECISION: verdict.word, REASON: verdict.reason[:MAX_TAG], runs.STAGE: "gate"}
    tags |= {"longtail.version": version.number, "mlflow.note.content": verdict.report[:MAX_TAG]}
    tags |= {runs.PARENT: parent} if parent else {}
    run = server.client.create_run(server.experiment, tags=tags, run_name=f"gate v{version.number}: {verdict.word}")
    runs.log_params(server, run.info.run_id, flat_params(gate, "gate."))
    runs.log_numbers(server, run.info.run_id, {0: verdict.numbers})
    server.client.log_text(run.info.run_id, verdict.report, "decision.md")
    server.client.log_text(run.info.run_id, json.dumps(verdict.document, indent=2), "decision.json")
    for file in verdict.files:
        server.client.log_artifact(run.info.run_id, str(file))
    server.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def say_verdict(registry: Registry, version: Version, word: str, reason: str) -> None:
    """Write the decision on the version itself; the word comes last, since it says that all before it is done."""
    client = registry.server.client
    client.update_model_version(registry.name, version.number, description=reason)  # what MLflow's page shows first
    client.set_model_version_tag(registry.name, version.number, REASON, reason[:MAX_TAG])
    say_word(registry, version, word)


def say_word(registry: Registry, version: Version, word: str) -> None:
    """Write the decision's word alone; its reason stands there already."""
    registry.server.client.set_model_version_tag(registry.name, version.number, DECISION, word)


def trouble_with_mlflow(root: Path, error: Exception) -> str | None:
    """Say in a sentence what is the matter, if the error came from MLflow, its server or its stores."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return trouble(root, error) if packages & STORES or isinstance(error, ConnectionError | TimeoutError) else None
