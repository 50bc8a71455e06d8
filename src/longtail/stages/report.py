"""Stage `report`: every method's evaluation in, one leaderboard and the plots out."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from longtail import plots
from longtail.evaluation import confusion_matrix, load_predictions
from longtail.images.split_files import load_split
from longtail.report.leaderboard import markdown, render, save_metrics
from longtail.report.provenance import Provenance, commit, describe, hardware, versions
from longtail.stages.job import Job, run_stage
from longtail.workspace import whole_folder

REPORTS = Path("reports")


class Results:
    """What the stages before left on disk for the rows of params.yaml; rows that were removed are not read."""

    def __init__(self, job: Job) -> None:
        self.params, self.methods = job.params, job.params.methods
        self.split = load_split(Path("data/split"))
        self.groups = job.params.evaluation.groups(self.split.class_counts)
        self.look = plots.looks([*self.methods, *job.params.representations])

    @cached_property
    def documents(self) -> dict[str, Any]:
        """evaluations/<method>/metrics.json of every method."""
        return {name: json.loads(Path("evaluations", name, "metrics.json").read_text()) for name in self.methods}

    def histories(self, folder: str, name: str) -> list[list[dict[str, Any]]]:
        """Return one history per seed."""
        files = [Path(folder, name, f"seed_{seed}", "history.jsonl") for seed in self.params.seeds]
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    def confusion(self, name: str) -> torch.Tensor:
        """Count images of class r taken for class c over all seeds as (K, K)."""
        seeds = [load_predictions(Path("evaluations", name, f"seed_{seed}.safetensors")) for seed in self.params.seeds]
        return torch.stack([confusion_matrix(seed.probabilities, seed.labels) for seed in seeds]).sum(0)


def report(job: Job) -> None:
    """Write metrics.json, leaderboard.md and the plots; show the leaderboard."""
    results = Results(job)
    summaries = {name: document["summary"] for name, document in results.documents.items()}
    parameters = {name: document["parameters"] for name, document in results.documents.items()}
    data, split = job.params.data, results.split
    provenance = Provenance(
        data=describe(data.name, data.profile, split),
        digest=split.digest,
        seeds=job.params.seeds,
        hardware=hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        commit=commit(Path.cwd()),
        versions=versions(),
    )
    origins = {name: [provenance] for name in summaries}
    with whole_folder(REPORTS / "plots") as folder:
        draw(results, folder)
    save_metrics(summaries, REPORTS / "metrics.json")
    (REPORTS / "leaderboard.md").write_text(
        markdown(summaries, parameters, job.params.evaluation, origins, job.params.published)
    )
    Console(width=max(Console().width, 80)).print(render(summaries, job.params.published))


def draw(results: Results, folder: Path) -> None:
    """Write every plot as PNG."""
    counts, classes = results.split.class_counts, results.split.classes
    documents = results.documents
    per_class = {name: document["per_class"] for name, document in documents.items()}
    learned = {name: results.histories("models", name) for name in results.params.representations}
    plots.class_counts(counts, results.groups, classes, folder / "class_counts.png")
    plots.accuracy_by_count(per_class, counts, results.groups, results.look, folder / "accuracy_by_count.png")
    plots.group_bars({name: d["summary"] for name, d in documents.items()}, results.look, folder / "groups.png")
    plots.learning_curves(learned, results.look, folder / "learning_curves.png")
    for name, method in results.methods.items():
        plots.confusion(name, results.confusion(name), counts, classes, folder / f"confusion_{name}.png")
        histories = results.histories("classifiers", name)
        if any("beta" in row for history in histories for row in history):
            plots.beta_by_class(name, histories, counts, classes, folder / f"beta_{name}.png")
        draw_generated(results, name, method.representation, folder / f"features_{name}.png")


def draw_generated(results: Results, name: str, representation: str, path: Path) -> None:
    """Draw the generated features of the first seed among the real ones, for methods that generate."""
    seed = f"seed_{results.params.seeds[0]}"
    file = Path("classifiers", name, seed, "generated.safetensors")
    if file.exists():
        drawn = load_file(file)
        bank = load_file(Path("features", representation, seed, "bank.safetensors"))
        real, features = bank["features"][0].float(), drawn["features"].float()
        plots.feature_view(real, bank["labels"], features, drawn["labels"], results.split.classes, path)


if __name__ == "__main__":
    run_stage("report", "", report)
