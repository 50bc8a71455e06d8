"""One parent per pipeline run and one nested run per executed stage, whatever happens to the stages."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.data import get_source

import tiny
from longtail.params import Params
from longtail.tracking import close_parent, open_parent, stage_run
from longtail.tracking.outputs import Outputs, all_outputs
from processes import print_experiment, run_all, run_every_stage, train_and_die
from tracked import EPOCHS, Recorded, run_pipeline, run_stage

pytest_plugins = ["tracking_fixtures"]

SOURCE = str(Path(__file__).parents[2] / "src")


def uri(project: Path) -> str:
    return f"sqlite:///{project / 'mlflow.db'}"


def row_of(params: Params) -> Outputs:
    """Return the stage that trains the representation."""
    return all_outputs(params)[1]


def test_a_pipeline_is_one_finished_parent_with_one_finished_child_per_stage(project: Path, params: Params) -> None:
    run_pipeline(params, project)
    recorded = Recorded.read(uri(project))
    (parent,) = recorded.parents
    assert parent.info.status == "FINISHED"
    names = [f"{outputs.stage} {outputs.row}".strip() for outputs in all_outputs(params)]
    assert recorded.children(parent) == {name: ["FINISHED"] for name in names}


def test_the_run_of_a_stage_holds_params_epochs_of_every_seed_and_the_data(project: Path, params: Params) -> None:
    outputs = row_of(params)
    with stage_run(outputs.stage, outputs.row, params, project) as run:
        run.dataset(tiny.make_split())
    recorded = Recorded.read(uri(project))
    child, client = recorded.named(f"train {outputs.row}"), MlflowClient(uri(project))
    assert child.data.params["plan.lr"] == str(params.plan_of(outputs.row).lr)
    assert child.data.params["loss.name"] == params.representations[outputs.row].loss.name
    for seed, rows in outputs.histories():
        points = client.get_metric_history(child.info.run_id, f"seed_{seed}/loss")
        assert [(point.step, point.value) for point in points] == [(row["epoch"], row["loss"]) for row in rows]
    for run_with_data in (child, recorded.parents[0]):
        (dataset,) = recorded.datasets(run_with_data)
        assert (dataset.name, dataset.digest) == (params.data.name, "tiny")
        assert get_source(dataset).to_dict()["tags"]["path"] == params.data.path
        counts = json.loads(dataset.profile or "")["training_images_per_class"]
        assert list(counts.values()) == list(tiny.COUNTS)


def test_the_parent_compares_all_methods_and_shows_the_plots(project: Path, params: Params) -> None:
    run_stage(Outputs("report", ""), params, project)
    (parent,) = Recorded.read(uri(project)).parents
    summaries = json.loads((project / "reports/metrics.json").read_text())
    for method, summary in summaries.items():
        assert parent.data.metrics[f"{method}/overall"] == summary["overall"]["mean"]
    artifacts = MlflowClient(uri(project)).list_artifacts(parent.info.run_id, "plots")
    assert [artifact.path for artifact in artifacts] == ["plots/groups.png"]
    assert parent.data.tags["mlflow.note.content"].startswith("# Leaderboard")
    assert parent.info.artifact_uri == str(project / "mlartifacts" / parent.info.run_id / "artifacts")


def test_the_run_of_an_evaluation_holds_mean_std_and_every_seed(project: Path, params: Params) -> None:
    method = next(iter(params.methods))
    run_stage(Outputs("evaluate", method), params, project)
    document = json.loads((project / f"evaluations/{method}/metrics.json").read_text())
    metrics = Recorded.read(uri(project)).named(f"evaluate {method}").data.metrics
    assert metrics["overall"] == document["summary"]["overall"]["mean"]
    assert metrics["overall_std"] == document["summary"]["overall"]["std"]
    assert metrics["seed_3/ece"] == document["seeds"]["3"]["ece"]


def test_stages_forced_to_run_again_are_another_pipeline_run(project: Path, params: Params) -> None:
    stages = [*all_outputs(params)[:2], Outputs("report", "")]
    for outputs in 2 * stages:
        run_stage(outputs, params, project)
    first, second = (recorded := Recorded.read(uri(project))).parents
    assert recorded.children(first) == recorded.children(second)
    assert len(recorded.children(first)) == len(stages)


def test_a_part_of_the_pipeline_ends_finished_and_the_rest_joins_it(project: Path, params: Params) -> None:
    split, train, *_ = all_outputs(params)
    run_stage(split, params, project)
    assert [run.info.status for run in Recorded.read(uri(project)).parents] == ["FINISHED"]
    run_stage(train, params, project)
    (parent,) = (recorded := Recorded.read(uri(project))).parents
    assert recorded.children(parent) == {"split": ["FINISHED"], f"train {train.row}": ["FINISHED"]}


def test_after_the_report_a_stage_belongs_to_another_pipeline_run(project: Path, params: Params) -> None:
    run_stage(Outputs("report", ""), params, project)
    run_stage(row_of(params), params, project)
    assert len(Recorded.read(uri(project)).parents) == 2


def test_other_params_are_another_pipeline_run(project: Path, params: Params) -> None:
    run_stage(row_of(params), params, project)
    run_stage(row_of(params), params.model_copy(update={"seeds": (0,)}), project)
    assert len(Recorded.read(uri(project)).parents) == 2


def test_an_experiment_of_dvc_is_another_pipeline_run_and_says_so(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, train, *_ = all_outputs(params)
    run_stage(split, params, project)
    monkeypatch.setenv("DVC_EXP_NAME", "tidal-bass")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123456")
    run_stage(train, params, project)
    newest, oldest = Recorded.read(uri(project)).parents
    assert (newest.data.tags["dvc.exp_name"], newest.data.tags["dvc.exp_baseline_rev"]) == ("tidal-bass", "0123456")
    assert newest.info.run_name.startswith("tidal-bass: ")
    assert "dvc.exp_name" not in oldest.data.tags


def test_parent_and_children_name_the_commit(project: Path, params: Params) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@localhost"]
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message=project")
    split, train, *_ = all_outputs(params)
    run_stage(split, params, project)
    with (project / "params.yaml").open("a") as file:
        file.write("# edited\n")
    run_stage(train, params, project)
    recorded, head = Recorded.read(uri(project)), git("rev-parse", "HEAD")
    assert {run.data.tags["mlflow.source.git.commit"] for run in recorded.runs} == {head}
    short = git("rev-parse", "--short", "HEAD")
    names = [recorded.parents[0].info.run_name, "split", f"train {train.row}"]
    assert [recorded.named(name).data.tags["longtail.commit"] for name in names] == [short, short, f"{short}+dirty"]


def test_a_stage_that_fails_fails_its_run_and_the_parent_until_it_succeeds(project: Path, params: Params) -> None:
    outputs = row_of(params)
    with pytest.raises(ZeroDivisionError), stage_run(outputs.stage, outputs.row, params, project) as run:
        run.log(0, {"epoch": 0, "loss": 1.5})
        raise ZeroDivisionError
    recorded = Recorded.read(uri(project))
    (parent,) = recorded.parents
    assert (parent.info.status, recorded.children(parent)) == ("FAILED", {f"train {outputs.row}": ["FAILED"]})
    assert recorded.named(f"train {outputs.row}").data.metrics["seed_0/loss"] == 1.5
    run_stage(outputs, params, project)
    recorded = Recorded.read(uri(project))
    (parent,) = recorded.parents
    assert parent.info.status == "FINISHED"
    assert recorded.children(parent) == {f"train {outputs.row}": ["FINISHED", "FAILED"]}


def test_a_stage_that_was_killed_continues_its_own_run(project: Path, params: Params) -> None:
    outputs = row_of(params)
    assert run_all(train_and_die, project) == [(-signal.SIGKILL, "")]
    before = Recorded.read(uri(project))
    assert [run.info.status for run in before.runs] == ["RUNNING", "RUNNING"]
    assert before.named(f"train {outputs.row}").data.metrics["seed_0/loss"] == pytest.approx(1.9)
    with stage_run(outputs.stage, outputs.row, params, project) as run:
        run.log(0, {"epoch": 1, "loss": 1.9, "lr": 0.1})  # trained twice, recorded once
    after = Recorded.read(uri(project))
    assert {run.info.run_id for run in after.runs} == {run.info.run_id for run in before.runs}
    assert [run.info.status for run in after.runs] == ["FINISHED", "FINISHED"]
    child = after.named(f"train {outputs.row}")
    for seed in params.seeds:
        points = MlflowClient(uri(project)).get_metric_history(child.info.run_id, f"seed_{seed}/loss")
        assert [point.step for point in points] == list(range(EPOCHS))


def test_a_killed_run_that_nobody_continues_is_closed_by_the_next_pipeline(project: Path, params: Params) -> None:
    outputs = row_of(params)
    with pytest.raises(KeyboardInterrupt), stage_run(outputs.stage, outputs.row, params, project):
        raise KeyboardInterrupt
    assert {run.info.status for run in Recorded.read(uri(project)).runs} == {"RUNNING"}
    run_stage(outputs, params.model_copy(update={"seeds": (0,)}), project)
    newest, oldest = (recorded := Recorded.read(uri(project))).parents
    assert (newest.info.status, oldest.info.status) == ("FINISHED", "KILLED")
    assert recorded.children(oldest) == {f"train {outputs.row}": ["KILLED"]}


def test_a_flow_opens_and_closes_the_parent_itself(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = open_parent("nightly")
    assert parent is not None
    monkeypatch.setenv("LONGTAIL_PARENT_RUN", parent)
    split, train, *_ = all_outputs(params)
    run_stage(split, params, project)
    with pytest.raises(KeyboardInterrupt), stage_run(train.stage, train.row, params, project):
        raise KeyboardInterrupt
    (during,) = Recorded.read(uri(project)).parents
    assert (during.info.run_id, during.info.status) == (parent, "RUNNING")
    close_parent(parent, "FINISHED")
    (after,) = (recorded := Recorded.read(uri(project))).parents
    assert (after.info.status, after.data.tags["longtail.reason"]) == ("FINISHED", "nightly")
    assert recorded.children(after) == {"split": ["FINISHED"], f"train {train.row}": ["KILLED"]}
    assert f"{next(iter(params.methods))}/overall" in after.data.metrics


def test_a_flow_may_work_in_another_folder(
    project: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    close_parent(open_parent("nightly", project), "FINISHED", project)
    assert Path.cwd() == tmp_path
    (parent,) = Recorded.read(uri(project)).parents
    assert (parent.info.status, f"{next(iter(params.methods))}/overall" in parent.data.metrics) == ("FINISHED", True)


def test_a_flow_that_failed_shows_no_metrics_of_an_older_report(project: Path, params: Params) -> None:
    parent = open_parent("by hand")
    close_parent(parent, "FAILED")
    (after,) = Recorded.read(uri(project)).parents
    assert (after.info.status, after.data.metrics) == ("FAILED", {})


def test_the_database_is_that_of_the_repository_not_of_the_working_folder(
    project: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "experiment"
    project.rename(elsewhere)
    project.mkdir()
    (elsewhere / "mlflow.db").rename(project / "mlflow.db")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("DVC_ROOT", str(project))
    run_pipeline(params, project)
    assert len(Recorded.read(uri(project)).parents) == 1
    assert (project / "mlartifacts").is_dir()
    assert not (elsewhere / "mlflow.db").exists()
    assert not (elsewhere / "mlartifacts").exists()


# Stands for a DVC command: its stages are its child processes. The params change while it runs, as code may.
DVC = """
import os, mlflow
from longtail.params import load_params
from longtail.tracking import stage_run
from longtail.workspace import home
params = load_params()
for stage, seeds in (("split", (0,)), ("report", (0, 1))):
    if os.fork() == 0:
        with stage_run(stage, "", params.model_copy(update={"seeds": seeds}), home()):
            pass
        os._exit(0)
    os.wait()
"""


def test_all_stages_of_one_dvc_command_are_one_pipeline_run(project: Path) -> None:
    (project / "dvc").write_text(DVC)
    done = subprocess.run([sys.executable, "dvc"], env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    (parent,) = (recorded := Recorded.read(uri(project))).parents
    assert recorded.children(parent) == {"split": ["FINISHED"], "report": ["FINISHED"]}


def test_switched_off_nothing_is_recorded_and_mlflow_is_not_imported(project: Path) -> None:
    (project / "mlflow.db").unlink()
    assert run_all(run_every_stage, project, LONGTAIL_TRACKING="off") == [(30, "")]
    assert not (project / "mlflow.db").exists()
    assert not (project / "mlartifacts").exists()
    assert sys.modules.get("mlflow"), "this process does import it, so the child's answer means something"


def test_two_processes_may_meet_at_a_new_database_and_are_quiet(project: Path) -> None:
    (project / "mlflow.db").unlink()
    one, other = run_all(print_experiment, project, count=2)
    assert one == other == (0, "1\n")
