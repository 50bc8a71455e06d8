import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.clone import run_file, update_clone
from pipelines.failures import PipelineError, UserError
from pipelines.variants import read_variant
from small_project import git

pytest_plugins = ["pipeline_fixtures"]


@pytest.fixture
def long_run(project: Path) -> Path:
    """A committed params file for a longer run."""
    (project / "benchmarks").mkdir()
    params = project / "benchmarks" / "long.yaml"
    params.write_text((project / "params.yaml").read_text().replace("epochs: ", "epochs: 1"))
    assert params.read_text() != (project / "params.yaml").read_text()
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=a long run")
    return params


def make(project: Path, params: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What `make run PARAMS=... SET="..."` starts."""
    command = [sys.executable, "-m", "pipelines.clone", params, *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_a_params_file_runs_beside_the_workspace_and_reports_back(project: Path, long_run: Path) -> None:
    (project / "data" / "raw" / "photos").mkdir(parents=True)
    first = make(project, "benchmarks/long.yaml")
    assert first.returncode == 0, first.stderr
    assert re.search(r"ce +50 %", first.stdout)
    assert "| ce | 50 % |" in (project / "benchmarks" / "results" / "long" / "leaderboard.md").read_text()
    assert not (project / "models").exists()
    clone = project / ".longtail" / "runs" / "long"
    assert (clone / "params.yaml").read_text() == long_run.read_text()
    assert (clone / "data" / "raw" / "photos").is_dir()
    assert "params.yaml" not in git(clone, "status", "--porcelain")  # the commit says everything

    again = make(project, "benchmarks/long.yaml")
    assert again.returncode == 0
    assert "working on" not in again.stdout
    shutil.rmtree(clone)
    anew = make(project, "benchmarks/long.yaml")
    assert anew.returncode == 0, anew.stderr
    assert "working on train" not in anew.stdout  # the cache is shared


def test_a_run_that_failed_continues_in_the_same_clone_with_newer_code(
    project: Path, long_run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", "yes")
    broken = (
        (project / "stage.sh")
        .read_text()
        .replace("mkdir -p", 'case "$stage$TROUBLE" in reportyes) exit 1; esac\nmkdir -p')
    )
    (project / "stage.sh").write_text(broken)
    git(project, "commit", "--quiet", "--all", "--message=trouble")
    with pytest.raises(PipelineError):
        run_file(project, long_run)
    assert not (project / "benchmarks" / "results").exists()
    capfd.readouterr()

    monkeypatch.delenv("TROUBLE")
    (project / "seed.txt").write_text("| method | overall |\n| :--- | ---: |\n| ce | 60 % |\n")
    git(project, "commit", "--quiet", "--all", "--message=a better seed")
    results = run_file(project, long_run)
    assert "| ce | 60 % |" in (results / "leaderboard.md").read_text()
    run_file(project, long_run)
    assert capfd.readouterr().out.count("working on train@ce") == 1


def test_stages_know_the_repository_they_belong_to_and_its_assigned_images(project: Path, long_run: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "assignment.csv").write_text("old\n")
    script = (project / "stage.sh").read_text()
    added = 'test $stage = split && echo "$LONGTAIL_HOME" >>data/assignment.csv || true\n'
    (project / "stage.sh").write_text(script.replace("mkdir -p", added + "mkdir -p"))
    git(project, "commit", "--quiet", "--all", "--message=assign")
    run_file(project, long_run)
    assert (project / "data" / "assignment.csv").read_text() == f"old\n{project}\n"


def test_code_that_is_not_committed_is_refused(project: Path, long_run: Path) -> None:
    (project / "src" / "new.py").touch()
    with pytest.raises(UserError, match=r"src/new\.py differ from HEAD"):
        run_file(project, long_run)
    assert not (project / ".longtail").exists()


def test_two_files_of_one_name_do_not_share_a_clone(project: Path, long_run: Path) -> None:
    update_clone(project, project / ".longtail" / "runs" / "long", read_variant(long_run, ()))
    twin = Path(shutil.copy(long_run, project / "long.yaml"))
    with pytest.raises(UserError, match="Rename one of the two"):
        run_file(project, twin)


def test_a_file_that_does_not_exist_is_one_sentence_and_exit_code_2(project: Path) -> None:
    finished = make(project, "benchmarks/none.yaml")
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert "none.yaml', which is not a file" in finished.stderr


def test_changed_numbers_run_in_a_clone_of_their_own(project: Path, long_run: Path) -> None:
    assert make(project, "benchmarks/long.yaml").returncode == 0
    changed = make(project, "benchmarks/long.yaml", "data.imbalance_factor=50", "plan.epochs=7")
    assert changed.returncode == 0, changed.stderr
    name = "long-imbalance_factor=50-plan.epochs=7"
    params = yaml.safe_load((project / ".longtail" / "runs" / name / "params.yaml").read_text())
    assert params["data"]["imbalance_factor"] == 50 and params["plan"]["epochs"] == 7
    assert "params.yaml" in git(project / ".longtail" / "runs" / name, "status", "--porcelain")  # no commit says this
    results = project / "benchmarks" / "results" / name
    assert (results / "leaderboard.md").is_file()
    assert yaml.safe_load((results / "params.yaml").read_text()) == params
    assert (project / "benchmarks" / "results" / "long" / "params.yaml").read_text() == long_run.read_text()
    assert (project / ".longtail" / "runs" / "long" / "params.yaml").read_text() == long_run.read_text()


@pytest.fixture
def rows(project: Path, long_run: Path) -> Path:
    """The same project, with an evaluation of each row."""
    evaluate = """
  evaluate:
    foreach: [ce, glag]
    do:
      cmd: mkdir -p evaluations && cp models/${item} evaluations/${item} && echo "evaluated ${item}"
      deps:
        - models/${item}
      outs:
        - evaluations/${item}
"""
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + evaluate)
    git(project, "commit", "--quiet", "--all", "--message=evaluations")
    return long_run


def test_some_rows_run_in_the_files_own_clone_and_join_its_results(project: Path, rows: Path) -> None:
    first = make(project, "benchmarks/long.yaml", "--methods", "ce")
    assert "working on train@ce" in first.stdout and "working on train@glag" not in first.stdout
    results = project / "benchmarks" / "results" / "long"
    assert (results / "added").read_text() == "ce\n"
    assert (results / "params.yaml").read_text() == rows.read_text()
    again = make(project, "benchmarks/long.yaml", "--methods", "glag, ce")
    assert "working on train@glag" in again.stdout and "working on train@ce" not in again.stdout
    assert (results / "added").read_text() == "ce\nglag ce\n"


def test_seeds_are_clones_of_their_own_and_one_table(project: Path, rows: Path) -> None:
    for seed in (0, 1):
        make(project, "benchmarks/long.yaml", f"seeds=[{seed}]", "data.path=data/raw", "--methods", "ce")
    assert len(list((project / ".longtail" / "runs").glob("*/params.yaml"))) == 2
    assert [folder.name for folder in (project / "benchmarks" / "results").iterdir()] == ["long"]
    assert (project / "benchmarks" / "results" / "long" / "params.yaml").read_text() == rows.read_text()


@pytest.mark.parametrize("names", ["cee", "ce,,cee", " , "])
def test_a_method_that_the_file_has_not_is_refused(project: Path, long_run: Path, names: str) -> None:
    finished = make(project, "benchmarks/long.yaml", "--methods", names)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1 and "METHODS" in finished.stderr
    assert not (project / ".longtail").exists()


def test_a_change_that_params_refuse_is_refused_before_anything_is_made(project: Path, long_run: Path) -> None:
    shutil.rmtree(project / "src")  # then longtail's own check is used
    git(project, "commit", "--quiet", "--all", "--message=longtail itself")
    finished = make(project, "benchmarks/long.yaml", "data.imbalance_facto=50")
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "long.yaml with SET: data.imbalance_facto is not a known key. Remove it or correct its spelling."
    ]
    assert not (project / ".longtail").exists()
