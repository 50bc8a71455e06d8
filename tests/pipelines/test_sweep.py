"""Sweeps over a project whose trials take a second; tests/services/test_sweep_run.py trains real networks."""

import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from pipelines.failures import UserError
from pipelines.sweep import main, runner_for
from sweep_project import BETA, assert_stops_clean, most_at_once, notes, run_all

pytest_plugins = ["sweep_fixtures"]


@pytest.mark.usefixtures("prefect_server")
def test_a_trial_that_fails_stops_no_other(root: Path) -> None:
    (root / "trouble" / "0.2").write_text("echo 'train: no images' >&2; exit 2\n")
    bad, good = run_all(root, [f"{BETA}=0.2,0.7"])
    assert (bad.state, good.state) == ("failed", "finished")
    assert bad.reason.endswith("train: no images") and not bad.validation
    assert good.validation["glag"]["overall"]["mean"] == 1.0
    text = (root / "benchmarks" / "results" / "swept" / "sweep.md").read_text()
    assert "train: no images" in text and 'SET="' + f"{BETA}=0.7" in text


def test_bad_input_is_one_sentence_and_exit_code_2_before_anything_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    refusals = {
        f"--grid {BETA}=0.2,1.7": f"params.yaml with {BETA}=1.7",
        "--grid plan.lrr=0.1": "plan.lrr is not a known key",
        "--grid seeds=": "--grid gives seeds no value",
        "--methods glog": "--methods has 'glog'",
        "--grid seeds=[0] --jobs 0": "--jobs is 0",
        "": "nothing to vary",
    }
    for words, sentence in refusals.items():
        monkeypatch.setattr(sys, "argv", ["pipelines.sweep", "params.yaml", *words.split()])
        assert main() == 2, words
        said = capsys.readouterr().err
        assert sentence in said and len(said.splitlines()) == 1, said
    assert not (root / ".longtail").exists() and not (root / "benchmarks").exists()


def test_code_that_is_not_committed_is_refused(root: Path) -> None:
    (root / "src").mkdir()
    (root / "src" / "new.py").touch()
    with pytest.raises(UserError, match=r"src/new\.py differ from HEAD"):
        run_all(root, [f"{BETA}=0.2,0.7"])
    assert not (root / ".longtail").exists()


def test_without_dask_the_sentence_names_the_other_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(UserError, match="--runner threads"):
        runner_for("dask", 2)


@pytest.mark.usefixtures("prefect_server")
def test_a_sweep_that_is_stopped_leaves_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    assert_stops_clean(root, "threads")


@pytest.mark.parametrize("kind", ["threads", pytest.param("dask", marks=pytest.mark.services)])  # Dask takes long
@pytest.mark.usefixtures("prefect_server")
def test_the_cap_holds_and_a_failed_trial_is_tried_again(root: Path, kind: str) -> None:
    (root / "trouble" / "0.2").write_text("exit 1\n")
    grids = [f"{BETA}=0.2,0.7", "seeds=[0],[1]"]
    outcomes = run_all(root, grids, kind)
    assert sorted(outcome.state for outcome in outcomes) == ["failed", "failed", "finished", "finished"]
    (root / "trouble" / "0.2").unlink()
    again = run_all(root, grids, kind)
    assert [outcome.state for outcome in again] == ["finished"] * 4
    assert len(notes(root)) == 4  # those that had finished were not trained again
    for run in (outcomes, again):
        assert most_at_once([(outcome.started, outcome.ended) for outcome in run]) == 2


@pytest.mark.services  # takes long
@pytest.mark.usefixtures("prefect_server")
def test_a_sweep_by_dask_that_is_stopped_leaves_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    assert_stops_clean(root, "dask")
