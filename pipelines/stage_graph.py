"""Read DVC's graph and its record of what was made. Reading only: running is left to the dvc command."""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo


def stages(root: Path) -> list[str]:
    """Return the names of dvc.yaml's stages, each after the stages it depends on."""
    with Repo(str(root)) as repo:
        graph = repo.index.graph
        order = TopologicalSorter({stage: list(graph.successors(stage)) for stage in repo.index.stages})
        return [stage.name for stage in order.static_order() if stage.cmd]


def recorded(root: Path, stage: str) -> Any:
    """Return what dvc.lock says about a stage (command, hashes of deps, params and outs), or None."""
    lock = root / "dvc.lock"
    content = yaml.safe_load(lock.read_text()) if lock.exists() else {}
    return content.get("stages", {}).get(stage)


def default_remote(root: Path) -> str | None:
    """Return the name of the DVC remote that `dvc push` sends to, or None."""
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote")
    return str(name) if name else None
