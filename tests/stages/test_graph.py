"""The whole graph on real small images, in a clone: what a DVC user expects of it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clones import Clone, shrink

pytest_plugins = ["clone_fixtures"]


def status(clone: Clone) -> Any:
    return json.loads(clone.run("dvc", "status", "--json"))


def ran(printed: str) -> set[str]:
    return {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}


def test_the_report_holds_every_method(clone: Clone) -> None:
    metrics = json.loads((clone.folder / "reports" / "metrics.json").read_text())
    assert list(metrics) == ["graloss", "glag"]
    for method in metrics.values():
        assert {"overall", "many", "medium", "few"} <= set(method)
        assert method["overall"]["n"] == 1 and method["overall"]["std"] is None
        assert 0 < method["overall"]["mean"] < 1
    plots = {path.name for path in (clone.folder / "reports" / "plots").iterdir()}
    assert {"class_counts.png", "accuracy_by_count.png", "beta_glag.png", "features_glag.png"} <= plots


def test_a_second_repro_has_nothing_to_do(clone: Clone) -> None:
    assert ran(clone.run("dvc", "repro")) == set()
    assert status(clone) == {}


def test_git_sees_only_the_lock_and_the_reports(clone: Clone) -> None:
    changed = {line[3:].split("/")[0] for line in clone.run("git", "status", "--porcelain").splitlines()}
    assert changed == {"dvc.lock", "reports"}


def test_a_methods_row_touches_that_method_alone(clone: Clone) -> None:
    params = clone.params()
    changed = json.loads(json.dumps(params))
    changed["methods"]["glag"]["balancer"]["beta_0"] = 0.4
    clone.write_params(changed)
    try:
        assert set(status(clone)) == {"finetune@glag", "report"}
    finally:
        clone.write_params(params)


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("src/longtail/losses/cross_entropy.py", set()),  # no row here uses it
        ("src/longtail/balancers/glag.py", {"finetune@glag"}),
        ("src/longtail/tracking/__init__.py", set()),
        ("src/longtail/training/objective.py", {"train@gradual", "finetune@graloss", "finetune@glag"}),  # their room
    ],
)
def test_editing_a_file_touches_the_rows_that_use_it(clone: Clone, file: str, stages: set[str]) -> None:
    path = clone.folder / file
    source = path.read_text()
    path.write_text(source + "# edited\n")
    try:
        assert set(status(clone)) == stages
    finally:
        path.write_text(source)


def test_a_new_method_runs_its_own_stages_only(clone: Clone) -> None:
    params = clone.params()
    added = json.loads(json.dumps(params))
    added["methods"]["again"] = added["methods"]["graloss"]
    clone.write_params(added)
    try:
        assert set(status(clone)) == {"finetune@again", "evaluate@again", "report"}
    finally:
        clone.write_params(params)


def test_no_balancer_reads_a_test_image(clone: Clone) -> None:
    features = clone.folder / "features" / "gradual" / "seed_0" / "test.safetensors"
    images = clone.folder / "data" / "split" / "test.safetensors"
    result = clone.folder / "classifiers" / "glag" / "seed_0" / "classifier.safetensors"
    before, kept = result.read_bytes(), {path: path.read_bytes() for path in (features, images)}
    blank = load_file(images)
    try:
        features.unlink()
        images.unlink()  # first: DVC's files may be links into its cache
        save_file({**blank, "images": torch.zeros_like(blank["images"])}, images)
        clone.run("python", "-m", "longtail.stages.finetune", "glag", PYTHONPATH="src")
        assert result.read_bytes() == before
    finally:
        for path, content in kept.items():
            path.unlink(missing_ok=True)
            path.write_bytes(content)


def test_an_experiment_runs_the_committed_code_and_the_stages_it_must(clone: Clone) -> None:
    """`--temp` copies the commit: an edit of the workspace after that must not reach it."""
    clone.commit()
    clone.run("dvc", "exp", "run", "--queue", "-S", "methods.glag.balancer.beta_0=0.4")
    broken = clone.folder / "src/longtail/balancers/glag.py"
    source = broken.read_text()
    broken.write_text("raise SystemExit('the workspace was used')\n")
    try:
        printed = clone.run("dvc", "exp", "run", "--run-all")
    finally:
        broken.write_text(source)
    assert ran(printed) == {"finetune@glag", "evaluate@glag", "report"}, printed
    shown = json.loads(clone.run("dvc", "exp", "show", "--json"))
    assert "0.4" in json.dumps(shown)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("plan", {"lr": -1}, "plan.lr"),
        ("data", {"imbalance_factor": 0.01}, "data.imbalance_factor"),
        ("data", {"test_per_class": 500}, "data.test_per_class"),
        ("evaluation", {"index_ranges": [1, 1, 1]}, "evaluation.index_ranges"),
        ("network", {"backbone": "imagenet_resnet50"}, "network.backbone"),
    ],
)
def test_bad_params_are_one_sentence_exit_code_2_and_no_output(
    clone: Clone, key: str, value: dict[str, Any], said: str
) -> None:
    params = clone.params()
    bad = json.loads(json.dumps(params))
    bad[key] |= value
    before = sorted((clone.folder / "data" / "split").iterdir())
    clone.write_params(bad)
    try:
        printed = clone.run("python", "-m", "longtail.stages.split", code=2, PYTHONPATH="src")
    finally:
        clone.write_params(params)
    assert said in printed and "Traceback" not in printed
    assert sorted((clone.folder / "data" / "split").iterdir()) == before
    assert not list(clone.folder.rglob("*.tmp"))


LONG = 120  # epochs: long enough to be killed in


def train(clone: Clone) -> str:
    return clone.run("python", "-m", "longtail.stages.train", "gradual", PYTHONPATH="src")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_killed_training_continues_and_ends_with_the_same_bits(tmp_path: Path, compiled: bool) -> None:
    clone = Clone(tmp_path)
    params = clone.params()
    shrink(params)
    params["plan"] |= {"epochs": LONG, "compile": "on" if compiled else "off"}
    clone.write_params(params)
    clone.run("python", "-m", "longtail.stages.split", PYTHONPATH="src")
    weights = clone.folder / "models" / "gradual" / "seed_0" / "weights.safetensors"
    train(clone)
    uninterrupted = weights.read_bytes()

    stage = clone.start("python", "-m", "longtail.stages.train", "gradual", PYTHONPATH="src")
    wait_for_epochs(clone, stage)
    os.kill(stage.pid, signal.SIGKILL)
    stage.communicate()
    printed = train(clone)
    assert "resumed at epoch" in printed
    resumed = int(printed.split("resumed at epoch ")[1].split()[0])
    assert 0 < resumed < LONG
    assert weights.read_bytes() == uninterrupted
    assert not list((clone.folder / ".longtail" / "checkpoints").iterdir())


def wait_for_epochs(clone: Clone, stage: subprocess.Popen[str]) -> None:
    """Wait until a checkpoint has been replaced at least twice."""
    seen: set[int] = set()
    for _ in range(6000):
        seen |= {path.stat().st_mtime_ns for path in (clone.folder / ".longtail").rglob("seed_0.pt") if path.exists()}
        if len(seen) >= 3:
            return
        assert stage.poll() is None, stage.communicate()[0]
        time.sleep(0.01)
    raise AssertionError("no epoch was finished in a minute")
