"""What the tests of tracking do to a project: run its stages, and read what MLflow then holds."""

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, Run

from longtail.params import Params
from longtail.tracking import stage_run
from longtail.tracking.outputs import Outputs, all_outputs

EPOCHS = 4  # of stage one


def run_stage(outputs: Outputs, params: Params, root: Path) -> None:
    """Record a stage that logs its epochs and succeeds: its outputs are there already."""
    with stage_run(outputs.stage, outputs.row, params, root) as run:
        for seed, rows in outputs.histories():
            for row in rows:
                run.log(seed, row)


def run_pipeline(params: Params, root: Path) -> None:
    """Record every stage, in the order in which DVC would run them."""
    for outputs in all_outputs(params):
        run_stage(outputs, params, root)


@dataclass(frozen=True)
class Recorded:
    """All runs of a tracking server, newest first."""

    runs: list[Run]

    @classmethod
    def read(cls, uri: str) -> "Recorded":
        """Ask the server at `uri`."""
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return cls(list(client.search_runs(experiments, order_by=["attributes.start_time DESC"])))

    @property
    def parents(self) -> list[Run]:
        """Pipeline runs."""
        return [run for run in self.runs if "mlflow.parentRunId" not in run.data.tags]

    def children(self, parent: Run) -> dict[str, list[str]]:
        """Return the statuses of a parent's nested runs by name, newest first."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id:
                found.setdefault(run.info.run_name, []).append(run.info.status)
        return found

    def datasets(self, run: Run) -> list[Dataset]:
        """Return the data sets that a run names as its inputs."""
        return [given.dataset for given in run.inputs.dataset_inputs] if run.inputs else []

    def named(self, name: str) -> Run:
        """Return the one run of a name."""
        (run,) = (run for run in self.runs if run.info.run_name == name)
        return run
