"""LONGTAIL_DEVICES=2 in a clone: the training stage becomes two processes, and one that is killed costs an epoch."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from clones import Clone, shrink

pytestmark = pytest.mark.services

STAGE = ("python", "-m", "longtail.stages.train")
TWO: dict[str, Any] = {"LONGTAIL_DEVICES": "2", "LONGTAIL_DEVICE": "cpu", "PYTHONPATH": "src"}
EPOCHS = 40  # nobody finishes them before it is killed


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a split of digits, and representations: short, long, one that diverges and one with mixup."""
    made = Clone(tmp_path_factory.mktemp("torchrun"))
    params = made.params()
    plain = params["representations"]["ce"]
    shrink(params)
    params["representations"] |= {
        "short": plain,
        "long": plain | {"plan": {"epochs": EPOCHS}},
        "diverges": plain | {"plan": {"lr": 1.0e30}},
        "mixed": plain | {"learner": {"name": "mixup", "alpha": 1.0, "until": 1.0}},
    }
    params["retrain"] = None
    made.write_params(params)
    made.run("python", "-m", "longtail.stages.split", PYTHONPATH="src")
    return made


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the answer to a question is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def checkpoints(clone: Clone) -> list[Path]:
    return list((clone.folder / ".longtail" / "checkpoints").rglob("*.pt"))


def begin(clone: Clone) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start the long training afresh and return the stage and its training processes once an epoch is kept."""
    shutil.rmtree(clone.folder / "models" / "long", ignore_errors=True)
    shutil.rmtree(clone.folder / ".longtail" / "checkpoints", ignore_errors=True)
    stage = clone.start(*STAGE, "long", **TWO)
    wait_for(lambda: checkpoints(clone))
    children = [child for child in psutil.Process(stage.pid).children() if "LOCAL_RANK" in child.environ()]
    return stage, sorted(children, key=lambda child: int(child.environ()["LOCAL_RANK"]))


def weights(clone: Clone, row: str) -> bytes:
    return (clone.folder / "models" / row / "seed_0" / "weights.safetensors").read_bytes()


def test_two_processes_write_one_output_and_one_record(clone: Clone) -> None:
    printed = clone.run(*STAGE, "short", LONGTAIL_TRACKING="on", **TWO)
    assert "train@short: 2 processes train together\n" in printed
    assert printed.count("epoch 2/2") == 1
    folder = clone.folder / "models" / "short"
    assert {path.name for path in folder.parent.iterdir()} == {"short"}
    history = [json.loads(line) for line in (folder / "seed_0" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [0, 1]
    assert 0 <= history[-1]["val_accuracy"] <= 1
    assert checkpoints(clone) == []
    with sqlite3.connect(clone.folder / "mlflow.db") as database:
        found = database.execute("SELECT status FROM runs WHERE name = 'train short'").fetchall()
    database.close()
    assert found == [("FINISHED",)]


@pytest.fixture(scope="module")
def uninterrupted(clone: Clone) -> bytes:
    """The weights of a long training that nobody kills."""
    clone.run(*STAGE, "long", **TWO)
    return weights(clone, "long")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_continues_to_the_same_bits(
    clone: Clone, uninterrupted: bytes, victim: int
) -> None:
    stage, processes = begin(clone)
    processes[victim].kill()
    printed, _ = stage.communicate(timeout=60)
    assert stage.returncode == 128 + signal.SIGKILL
    assert (
        f"train@long: process {victim + 1} of 2 was killed by SIGKILL, and the others were stopped. The checkpoint of "
        "the last finished epoch is kept, and the same command continues from it.\n" in printed
    )
    assert "Traceback" not in printed
    assert not any(process.is_running() for process in processes)
    assert not (clone.folder / "models" / "long").exists()
    assert "train@long seed 0: resumed at epoch" in clone.run(*STAGE, "long", **TWO)
    assert weights(clone, "long") == uninterrupted
    assert checkpoints(clone) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_stage(clone: Clone, number: signal.Signals) -> None:
    stage, processes = begin(clone)
    stage.send_signal(number)
    stage.communicate(timeout=60)
    interrupted = (1, -signal.SIGINT)  # Python ends with the second if it meets the interrupt in a string it executes
    assert stage.returncode in (interrupted if number == signal.SIGTERM else (-number,))
    wait_for(lambda: not any(process.is_running() for process in processes), 60)
    assert len(checkpoints(clone)) == 1
    assert {path.name for path in (clone.folder / "models").iterdir()} <= {"short", "long"}


def test_what_a_process_refuses_is_one_sentence(clone: Clone) -> None:
    printed = clone.run(*STAGE, "diverges", code=2, **TWO)
    assert printed.count("Lower the learning rate") == 1
    assert "train: train@diverges seed 0: the " in printed
    assert "Traceback" not in printed
    assert not (clone.folder / "models" / "diverges").exists()


def test_a_learner_that_looks_at_whole_batches_is_refused_before_anything_starts(clone: Clone) -> None:
    printed = clone.run(*STAGE, "mixed", code=2, **TWO)
    assert printed.startswith("train: representations.mixed.learner is mixup, but LONGTAIL_DEVICES is 2")
    assert printed.count("\n") == 1
