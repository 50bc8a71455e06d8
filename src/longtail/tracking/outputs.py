"""What the stages left on disk, in MLflow's form, without mlflow: this is the source of which runs are a copy."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from longtail.params import Params

FOLDERS = {
    "split": "data/split",
    "train": "models/{row}",
    "extract": "features/{row}",
    "finetune": "classifiers/{row}",
    "evaluate": "evaluations/{row}",
    "report": "reports",
}
SUMMARY = "metrics.json"
Numbers = dict[str, float]


@dataclass(frozen=True)
class Outputs:
    """The outputs of a stage's row, in the working folder.

    Args:
        stage: of `FOLDERS`.
        row: a representation or a method; "" for stages without rows.
    """

    stage: str
    row: str

    @property
    def name(self) -> str:
        """The stage's name in dvc.yaml."""
        return f"{self.stage}@{self.row}" if self.row else self.stage

    @property
    def folder(self) -> Path:
        """Where the outputs lie."""
        return Path(FOLDERS[self.stage].format(row=self.row))

    def digest(self) -> str | None:
        """Identify the outputs by their content; None if there are none."""
        if self.stage == "report":
            files = [self.folder / SUMMARY]  # the leaderboard beside it carries a time
        else:
            files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        if not files or not files[0].exists():
            return None
        hashed = hashlib.sha256(self.name.encode())
        for file in files:
            hashed.update(str(file.relative_to(self.folder)).encode())
            hashed.update(self._identity(file))
        return hashed.hexdigest()

    def _identity(self, file: Path) -> bytes:
        if self.stage == "extract":  # features may be many gigabytes: the network that made them says which they are
            trained = Outputs("train", self.row).digest()
            return f"{file.stat().st_size} {trained}".encode()
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").digest()

    def histories(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield seed and the rows of its history.jsonl."""
        for file in sorted(self.folder.glob("seed_*/history.jsonl")):
            seed = int(file.parent.name.removeprefix("seed_"))
            yield seed, [json.loads(line) for line in file.read_text().splitlines()]

    def final_metrics(self) -> Numbers:
        """Return what `evaluate` found: the mean over seeds, its std, each seed's own, and the network's parameters."""
        if self.stage != "evaluate":
            return {}
        document = json.loads((self.folder / SUMMARY).read_text())
        means = {name: entry["mean"] for name, entry in document["summary"].items()}
        stds = {f"{name}_std": entry["std"] for name, entry in document["summary"].items()}
        seeds = {f"seed_{seed}": values for seed, values in document["seeds"].items()}
        size = {"parameters": document.get("parameters")}  # an evaluation of an earlier version holds none
        return flat_numbers(means) | flat_numbers(stds) | flat_numbers(seeds) | flat_numbers(size)


def all_outputs(params: Params) -> list[Outputs]:
    """List every stage and row of params.yaml, in the order in which they run."""
    rows = [(stage, row) for stage in ("train", "extract") for row in params.representations]
    rows += [(stage, row) for stage in ("finetune", "evaluate") for row in params.methods]
    return [Outputs(stage, row) for stage, row in [("split", ""), *rows, ("report", "")]]


def leaderboard_numbers(reports: Path) -> Numbers:
    """Return the mean of every metric of every method as "glag/overall"; empty if there is no report."""
    file = reports / SUMMARY
    if not file.exists():
        return {}
    document = json.loads(file.read_text())
    return flat_numbers({f"{method}/{name}": m["mean"] for method, ms in document.items() for name, m in ms.items()})


def epoch_numbers(seed: int, row: Mapping[str, Any]) -> Numbers:
    """Return a history row as "seed_0/loss"; of a list (β of every class) its mean, smallest and largest."""
    numbers: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            parts = {"mean": fmean(value), "min": min(value), "max": max(value)} if value else {}
            numbers |= {f"{name}_{part}": number for part, number in parts.items()}
        elif name != "epoch":
            numbers[name] = value
    return flat_numbers({f"seed_{seed}": numbers})


def flat_numbers(document: Mapping[str, Any], prefix: str = "") -> Numbers:
    """Flatten nested mappings to "a/b" -> number; lists, text and null are left out, odd characters become _."""
    numbers: Numbers = {}
    for name, value in document.items():
        key = prefix + re.sub(r"[^\w\-. :/]", "_", str(name), flags=re.ASCII)
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{key}/")
        elif isinstance(value, int | float):
            numbers[key] = float(value)
    return numbers


def flat_params(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to "a.b" -> text; a list is written as JSON."""
    texts: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            texts |= flat_params(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return texts


def params_of(outputs: Outputs, params: Params) -> dict[str, str]:
    """Return what a stage's row depends on, flat."""
    chosen: dict[str, Any] = {"seeds": params.seeds, "data": params.data.model_dump(mode="json")}
    if outputs.row in params.methods and outputs.stage in ("finetune", "evaluate"):
        chosen |= params.methods[outputs.row].model_dump(mode="json")
    representation = str(chosen.get("representation", outputs.row))
    if representation:
        row = params.representations[representation].model_dump(mode="json", exclude={"plan", "network"})
        network, plan = params.network_of(representation), params.plan_of(representation)
        chosen |= {**row, "network": network.model_dump(mode="json"), "plan": plan.model_dump(mode="json")}
        chosen["extract"] = params.extract.model_dump(mode="json")
    return flat_params(chosen)
