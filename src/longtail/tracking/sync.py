"""Send to MLflow what the stages wrote while it was away. The digest of the outputs identifies what has been sent."""

from __future__ import annotations

from pathlib import Path

from longtail.params import Params
from longtail.tracking import runs
from longtail.tracking.outputs import Outputs, all_outputs
from longtail.tracking.record import Record
from longtail.tracking.server import Server, locked


def sync(server: Server, params: Params, root: Path) -> list[str]:
    """Send every stage whose present outputs no finished run holds, and return their names in dvc.yaml.

    They are added to the pipeline run that they belong to, or to a new one; repeating it adds nothing.
    """
    missing = [outputs for outputs in all_outputs(params) if _is_missing(server, outputs)]
    if missing:
        names, key = [outputs.name for outputs in missing], runs.pipeline_key(params)
        with locked(root):
            parent = runs.find_parent(server, params, names) or runs.make_parent(server, params, key, "sync")
        for outputs in missing:
            run, continued = runs.open_child(server, parent, outputs, params)
            Record(server, params, outputs, parent, run, continued).complete()
        runs.settle(server, parent)
    return [outputs.name for outputs in missing]


def _is_missing(server: Server, outputs: Outputs) -> bool:
    content = outputs.digest()
    return content is not None and not runs.is_recorded(server, content)
