"""The MLflow run of one stage's row: epochs while it runs, and the rest copied from disk when it has succeeded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from longtail.images.labeled import LongTailSplit
from longtail.images.split_files import load_split
from longtail.params import Params
from longtail.tracking import runs
from longtail.tracking.logged_model import log_model
from longtail.tracking.outputs import Numbers, Outputs, epoch_numbers, flat_params, leaderboard_numbers
from longtail.tracking.server import Server, locked

PARENT_VARIABLE = "LONGTAIL_PARENT_RUN"
SPLIT, REPORTS = Path("data/split"), Path("reports")
MAX_TAG = 8000  # characters, mlflow's limit


class Record:
    """A run on a server that answers; every method may raise what mlflow raises.

    Args:
        parent, run: ids.
        continued: the run was begun by a process that was killed, so it may hold epochs already.
    """

    def __init__(
        self, server: Server, params: Params, outputs: Outputs, parent: str, run: str, continued: bool
    ) -> None:
        self.server, self.params, self.outputs, self.parent, self.run = server, params, outputs, parent, run
        self._continued = continued
        self._held: dict[int, set[tuple[str, int]]] = {}  # seed -> name and epoch of what the run holds
        self._has_dataset = False

    @classmethod
    def begin(cls, server: Server, params: Params, outputs: Outputs, root: Path) -> Self:
        """Find or make the parent run and this stage's run in it, and say that both are running."""
        parent = os.environ.get(PARENT_VARIABLE)
        with locked(root):  # stages that start together share one parent
            parent = parent or runs.join_parent(server, params, outputs.name)
            run, continued = runs.open_child(server, parent, outputs, params)
        return cls(server, params, outputs, parent, run, continued)

    def epochs(self, seed: int, steps: Mapping[int, Numbers]) -> None:
        """Send what the run does not hold yet of a seed's epochs; a server may have died in the middle of one."""
        if seed not in self._held:
            prefix = f"seed_{seed}/"
            self._held[seed] = runs.logged_points(self.server, self.run, prefix) if self._continued else set()
        held = self._held[seed]
        new = {
            epoch: {name: number for name, number in numbers.items() if (name, epoch) not in held}
            for epoch, numbers in steps.items()
        }
        runs.log_numbers(self.server, self.run, new)
        held.update((name, epoch) for epoch, numbers in new.items() for name in numbers)

    def dataset(self, split: LongTailSplit) -> None:
        """Log the split as the data set of this run and of the parent; its digest is that of the chosen images."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        counts = dict(zip(split.classes, split.class_counts.tolist(), strict=True))
        described = flat_params(self.params.data.model_dump(mode="json"))
        sizes = {"train": len(split.train), "validation": len(split.val), "test": len(split.test)}
        dataset = Dataset(
            name=self.params.data.name,
            digest=split.digest[:36],  # of mlflow's column; the tag below holds the whole
            source_type="code",  # one that mlflow knows
            source=json.dumps({"tags": {"mlflow.source.name": "longtail.stages.split", **described}}),
            profile=json.dumps({**sizes, "training_images_per_class": counts}),
        )
        for run in (self.run, self.parent):
            self.server.client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
            self.server.client.set_tag(run, "longtail.split_digest", split.digest)
        self._has_dataset = True

    def complete(self) -> None:
        """Copy what the stage wrote to disk and mark the run as finished. Repeating it adds nothing.

        The tag with the outputs' digest comes last: a run without it is not complete, whatever its status says.
        """
        for seed, rows in self.outputs.histories():
            self.epochs(seed, {int(row["epoch"]): epoch_numbers(seed, row) for row in rows})
        if not self._has_dataset and SPLIT.exists():
            self.dataset(load_split(SPLIT))
        runs.log_results(self.server, self.run, self.outputs.final_metrics())
        if self.outputs.stage == "evaluate":
            log_model(self.server, self.run, self.params, self.outputs.row)
        if self.outputs.stage == "report":
            log_report(self.server, self.run)
            log_report(self.server, self.parent)
        content = self.outputs.digest()
        assert content is not None, f"{self.outputs.name} has succeeded without outputs in {self.outputs.folder}"
        self.server.client.set_tag(self.run, runs.CONTENT, content)
        self.close("FINISHED")

    def close(self, status: str) -> None:
        """End the run, and the parent unless a flow owns it or another stage still runs in it."""
        self.server.client.set_terminated(self.run, status)
        if PARENT_VARIABLE not in os.environ:
            runs.settle(self.server, self.parent)


def log_report(server: Server, run: str) -> None:
    """Log every method's metrics, the plots and the leaderboard (as the run's description too), if there is a report.

    On the parent run this lets pipelines be compared side by side, whichever of their stages were cached.
    """
    runs.log_results(server, run, leaderboard_numbers(REPORTS))
    leaderboard = REPORTS / "leaderboard.md"
    if leaderboard.exists():
        server.client.log_artifact(run, str(leaderboard))
        server.client.set_tag(run, "mlflow.note.content", leaderboard.read_text()[:MAX_TAG])
    if (REPORTS / "plots").is_dir():
        server.client.log_artifacts(run, str(REPORTS / "plots"), "plots")
