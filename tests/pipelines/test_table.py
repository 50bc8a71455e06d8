"""The list of what is wanted: what is missing runs, a kill loses nothing, another machine's rows come home."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from longtail.report.results import load
from pipelines.bare import _identity, _take_split
from pipelines.failures import UserError
from pipelines.table import Estimate, wanted
from small_project import REPOSITORY, git

pytest_plugins = ["pipeline_fixtures"]

SMALL = {"epochs": 4, "warmup": 0, "validate_every": 0, "compile": "off", "precision": "float32"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This repository's code and graph in a commit of its own, with one small table that is wanted."""
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("src", "pipelines", ".dvc"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "tmp", "cache", "config.local")
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", ".env"):
        shutil.copy(REPOSITORY / name, root)
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content["plan"] |= SMALL
    content["extract"]["views"] = 1
    content["methods"] = {name: content["methods"][name] for name in ("ce", "tau_norm", "graloss")}
    content["retrain"] = None
    (root / "benchmarks").mkdir()
    (root / "benchmarks" / "small.yaml").write_text(yaml.safe_dump(content))
    want(root, {"file": "small.yaml", "methods": ["ce", "tau_norm"], "seeds": [0]})
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / ".gitkeep").touch()
    shutil.copy(REPOSITORY / "data" / "assignment.csv", root / "data")
    git(root.parent, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=project")
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    monkeypatch.delenv("LONGTAIL_HOME", raising=False)
    monkeypatch.chdir(root)
    return root


def want(root: Path, *entries: dict[str, Any]) -> None:
    (root / "benchmarks" / "results").mkdir(exist_ok=True)
    (root / "benchmarks" / "results" / "wanted.yaml").write_text(yaml.safe_dump(list(entries)))


def start(root: Path, module: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(root / "src"), str(root)])
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.mark.services  # not for its servers: a dozen processes that import torch
def test_what_is_missing_runs_and_a_kill_is_no_loss(repository: Path) -> None:
    for _ in range(2):  # killed twice, at whatever it is doing
        process = start(repository, "pipelines.table")
        time.sleep(8)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (130, 0)
    finish(start(repository, "pipelines.table"))
    rows = load(repository / "benchmarks" / "results" / "small")
    assert {name: list(row["seeds"]) for name, row in rows.items()} == {"ce": ["0"], "tau_norm": ["0"]}
    state = (repository / "benchmarks" / "results" / "README.md").read_text()
    assert "| [small](small/leaderboard.md) | ce | 0 | 0 |" in state
    board = (repository / "benchmarks" / "results" / "small" / "leaderboard.md").read_text()
    assert "- Missing: graloss (not run)." in board
    again = finish(start(repository, "pipelines.table"))
    assert again == "2 of 2 runs are there, 0 to go.\n"


@pytest.mark.services  # likewise
def test_rows_of_a_machine_without_dvc_come_home(repository: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(repository, away, ignore=shutil.ignore_patterns(".git"))
    bare = ("pipelines.bare", "benchmarks/small.yaml", "seeds=[1]", "--methods", "ce")
    assert "train@ce seed 1" in finish(start(away, *bare, LONGTAIL_COMMIT="abc1234"))
    assert "train@ce" not in finish(start(away, *bare, LONGTAIL_COMMIT="abc1234"))  # it runs once
    finish(start(repository, "pipelines.table", "--bring", str(away)))
    rows = load(repository / "benchmarks" / "results" / "small")
    assert rows["ce"]["seeds"]["1"]["commit"] == "abc1234"
    finish(start(repository, "pipelines.clone", "benchmarks/small.yaml", "seeds=[1]", "--methods", "ce"))
    assert load(repository / "benchmarks" / "results" / "small") == rows  # with dvc or without: the same numbers


@pytest.fixture
def run_folder(repository: Path, tmp_path: Path) -> Path:
    """A run's folder from another machine, with params.yaml and a split."""
    folder = tmp_path / "carried"
    (folder / "data" / "split").mkdir(parents=True)
    (folder / "data" / "split" / "classes.json").touch()
    shutil.copy(repository / "benchmarks" / "small.yaml", folder / "params.yaml")
    return folder


def test_a_carried_split_of_the_same_data_is_taken(repository: Path, run_folder: Path) -> None:
    for _ in range(2):
        _take_split(run_folder, repository)
        assert (repository / "data" / "split").resolve() == run_folder / "data" / "split"


def test_a_carried_split_of_other_data_is_refused(repository: Path, run_folder: Path) -> None:
    other = (run_folder / "params.yaml").read_text().replace("imbalance_factor: 36", "imbalance_factor: 9")
    (run_folder / "params.yaml").write_text(other)
    with pytest.raises(UserError, match=r"whose data\.imbalance_factor is another"):
        _take_split(run_folder, repository)
    shutil.rmtree(run_folder / "data")
    with pytest.raises(UserError, match="has no data/split"):
        _take_split(run_folder, repository)


def test_what_a_stage_is_made_of(repository: Path) -> None:
    """The marker beside a stage's outputs changes with the numbers that it depends on, and with no others."""
    rows = [("train", "ce"), ("extract", "ce"), ("finetune", "tau_norm"), ("finetune", "ce"), ("split", "")]
    before = {row: _identity(repository, *row) for row in rows}
    content = yaml.safe_load((repository / "params.yaml").read_text())
    changes: list[tuple[tuple[str, ...], Any, set[tuple[str, str]]]] = [
        (("representations", "ce", "plan"), {"lr": 0.04}, {("split", "")}),
        (("extract",), {"views": 2}, {("split", ""), ("train", "ce")}),
        (("methods", "tau_norm", "balancer"), {"tau": 1.0}, set(rows) - {("finetune", "tau_norm")}),
        (("data",), {"imbalance_factor": 9}, set()),
    ]
    for keys, change, kept in changes:
        node = changed = copy.deepcopy(content)
        for key in keys:
            node = node[key]
        node.update(change)
        (repository / "params.yaml").write_text(yaml.safe_dump(changed))
        assert {row for row in rows if _identity(repository, *row) == before[row]} == kept


@pytest.mark.parametrize(
    "entry",
    [
        {"file": "small.yaml", "methods": ["ce"]},
        {"file": "small.yaml", "methods": ["cee"], "seeds": [0]},
        {"file": "none.yaml", "methods": ["ce"], "seeds": [0]},
        "small.yaml",
    ],
    ids=repr,
)
def test_an_entry_that_cannot_be_run_is_refused(repository: Path, entry: Any) -> None:
    want(repository, entry)
    with pytest.raises(UserError, match=r"entry 1|none\.yaml"):
        wanted(repository)


def test_the_list_of_this_repository_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    runs = wanted(REPOSITORY)
    assert len({one.name for one in runs}) == len(runs)
    assert all(one.epochs for one in runs)


def test_the_estimate_counts_a_training_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 130.0])
    monkeypatch.setattr("pipelines.table.time.monotonic", lambda: next(clock))
    estimate = Estimate({("t", "ce", 0): 200, ("t", "ce", 1): 200}, 1)
    assert str(estimate) == "time left: not known yet"
    assert estimate.note("t", "train@ce seed 0: epoch 10/200, 500 images/s, loss 4.0, 9 min left") == (
        "epoch 10/200, 500 images/s"
    )
    estimate.note("t", "train@ce seed 0: epoch 20/200, 500 images/s, loss 4.0, 9 min left")
    assert str(estimate) == f"about {(180 + 200) * 3 / 60:.0f} min left"
    assert estimate.note("t", "Running stage 'evaluate@ce':") is None


def test_refusals_are_one_sentence(repository: Path, tmp_path: Path) -> None:
    for arguments in (("--jobs", "0"), ("--bring", str(tmp_path / "nowhere"))):
        process = start(repository, "pipelines.table", *arguments)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and len(said.splitlines()) == 1, said
