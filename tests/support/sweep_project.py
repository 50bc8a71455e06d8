"""A small DVC project for sweeps: its one stage trains nothing, but leaves what a trial is measured by."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from banks import biased_network, make_bank
from pipelines.sweep import sweep_all
from pipelines.sweep_plan import plan_sweep
from pipelines.sweep_table import Provenance
from pipelines.sweep_trial import Outcome
from small_project import REPOSITORY, git, has_ended

BETA = "methods.glag.balancer.beta_0"
STAGES = """
stages:
  train:
    cmd: python stage.py
    deps: [stage.py, given]
    params: [seeds, methods]
    outs: [features, classifiers, evaluations]
"""
# It notes when it ran and with how many threads, and does what $LONGTAIL_HOME/trouble/<beta> says.
STAGE = """
import json, os, pathlib, shutil, subprocess, sys, time, yaml
params, home, started = yaml.safe_load(open("params.yaml")), pathlib.Path(os.environ["LONGTAIL_HOME"]), time.time()
beta = str(params["methods"]["glag"]["balancer"]["beta_0"])
print(f"training with beta {beta}", flush=True)
if (home / "trouble" / beta).exists():
    code = subprocess.call(["sh", str(home / "trouble" / beta)])
    if code:
        sys.exit(code)
time.sleep(1)
for name, row in params["methods"].items():
    for seed in params["seeds"]:
        bank, classifier = (pathlib.Path(kind, which, f"seed_{seed}") for kind, which in
                            (("features", row["representation"]), ("classifiers", name)))
        bank.mkdir(parents=True, exist_ok=True)
        classifier.mkdir(parents=True)
        shutil.copy("given/bank.safetensors", bank)
        which = "good" if float(beta) > 0.5 else "bad"
        shutil.copy(f"given/{which}.safetensors", classifier / "classifier.safetensors")
    out = pathlib.Path("evaluations", name)
    out.mkdir(parents=True)
    tested = {"mean": 1 - float(beta), "std": None, "n": 1}  # the other way round than on validation images
    (out / "metrics.json").write_text(json.dumps({"summary": {"overall": tested, "few": tested}}))
note = {"beta": beta, "started": started, "ended": time.time(), "threads": os.environ["OMP_NUM_THREADS"]}
(home / "notes").mkdir(exist_ok=True)
(home / "notes" / f"{os.getpid()}.json").write_text(json.dumps(note))
"""


def make_sweep_project(template: Path, root: Path) -> Path:
    """Turn a copy of the template into a committed project whose trials take a second."""
    shutil.copytree(template, root)
    shutil.rmtree(root / "src")  # then longtail itself checks and measures
    (root / "dvc.yaml").write_text(STAGES)
    (root / "stage.py").write_text(STAGE)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["seeds"] = [0]
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    _give(root / "given")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=a project for sweeps")
    (root / "trouble").mkdir()
    return root


def _give(folder: Path) -> None:
    folder.mkdir()
    bank = make_bank(spread=0.0)
    bank.save(folder / "bank.safetensors")
    for name, bias in (("good", 0.0), ("bad", 50.0)):  # bad takes everything for the most frequent class
        classifier = biased_network(bank, bias).classifier
        classifier.export().save(folder / f"{name}.safetensors")


def run_all(root: Path, grids: list[str], kind: str = "threads") -> list[Outcome]:
    """Run a sweep over glag in the present process, two trials at a time."""
    sweep = plan_sweep(root / "params.yaml", grids, ["glag"], "swept")
    return sweep_all(root, sweep, Provenance("params.yaml", "overall", False, 2, "abc", "a machine"), kind)


def notes(root: Path) -> list[dict[str, Any]]:
    """Return what the trials that trained say of themselves."""
    return [json.loads(file.read_text()) for file in (root / "notes").glob("*.json")]


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """Return how many of some spans of time (start, end) overlap at most."""
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def assert_stops_clean(root: Path, kind: str) -> None:
    """Terminate a sweep of which two trials run: both end, and nothing is written as its result."""
    (root / "trouble" / "0.2").write_text("echo $$ >$LONGTAIL_HOME/child.$$; exec sleep 100\n")
    words = ["params.yaml", "--grid", f"{BETA}=0.2", "--grid", "seeds=[0],[1],[2]", "--runner", kind]
    command = [sys.executable, "-m", "pipelines.sweep", *words]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while len(children := list(root.glob("child.*"))) < 2 or not all(child.read_text() for child in children):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("Stopped. The same command again continues")
    assert len(list(root.glob("child.*"))) == 2
    assert all(has_ended(child) for child in children)
    assert not (root / "benchmarks" / "results").exists()
