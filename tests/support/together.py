"""Trainings that several processes do together (torchrun starts `main`), and the same ones by a single process."""

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import tiny
from longtail.distributed import joined, meet, rank
from longtail.images.labeled import LabeledImages
from longtail.learners.plain import Plain
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches
from longtail.loading.sampling import Sampler
from longtail.losses import Loss
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models import NetworkSpec, build_network
from longtail.models.network import Network
from longtail.training.loop import History, Run, Step, fit
from longtail.training.objective import Objective, Reweighting
from longtail.training.plans import Optimisation

CPU = torch.device("cpu")
EPOCHS = 4
STILL = {"pad": 0, "flip": False, "jitter": 0.0, "policy": "none", "cutout": 0}


@dataclass(frozen=True)
class Case:
    """A training of 43 images; batches of 7 leave one row for the last, which a second process then lacks."""

    loss: Loss = field(default_factory=CrossEntropy)
    reweighting: Reweighting | None = None
    sampler: Sampler = "instance_balanced"
    batch_size: int = 7
    normalised: bool = False  # by BatchNorm


CASES = {
    "cross_entropy": Case(),
    "weighted": Case(reweighting=Reweighting(beta=0.999, start=0, divisor="weights")),
    "deferred": Case(
        GradualBalanced(form="convex", s=1, c=2),
        Reweighting(beta=0.99, start=0.5, divisor="weights"),
        "class_balanced",
        16,
    ),
    "batch_norm": Case(reweighting=Reweighting(beta=0.999, start=0, divisor="weights"), batch_size=16, normalised=True),
}


def images() -> LabeledImages:
    """Return the tiny split's training images at twice their size, which LeNet needs."""
    small = tiny.make_split().train
    assert isinstance(small.images, torch.Tensor)
    return replace(small, images=small.images.repeat_interleave(2, 2).repeat_interleave(2, 3))


def network(case: Case) -> Network:
    """Build a LeNet, which has no BatchNorm, or the tiny network, which has."""
    if case.normalised:
        return tiny.make_network()
    spec = NetworkSpec(backbone="lenet", classifier="linear", scale=1.0, weights=None)
    data: Any = {"channels": 3, "image_size": 16, "num_classes": 5, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return build_network(spec, **data, seed=0)


def objective(case: Case) -> Objective:
    """Build the case's objective."""
    return Objective(case.loss, case.reweighting, torch.tensor(tiny.COUNTS))


def batches(case: Case) -> ImageBatches:
    """Build the case's batches, randomly cropped and flipped."""
    augmentation = Augmentation.model_validate(STILL | {"crop": "pad", "pad": 1, "flip": True})
    return ImageBatches(images(), (case.sampler,), case.batch_size, augmentation, EPOCHS, 0)


def train(case: Case, checkpoint: Path | None = None, step: Step | None = None, **more: Any) -> Any:
    """Train and return the step's state and the history."""
    rows = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "warmup": 1}
    plan = Optimisation.model_validate(
        {"epochs": EPOCHS, "batch_size": case.batch_size, "schedule": {"name": "cosine"}} | rows
    )
    step = step or Plain().step_for(network(case), objective(case))
    run = Run("train@tiny seed 0", 0, CPU, checkpoint, **more)
    history = fit(step, batches(case), plan, run, lambda epoch: {"val_accuracy": epoch / 7})
    return step.state_dict(), history


def epoch_of(case: Case) -> list[Batch]:
    """Return the batches of an epoch, as this process sees them."""
    return [batch for (batch,) in batches(case).epoch(1)]


def main(folder: Path) -> None:
    """Train every case, and continue what one process and what two have begun; each process saves what it has."""
    logged: list[History] = []

    def keep(row: History) -> None:
        logged.append(row)
        if row["epoch"] == 1:
            for name in ("by_two.pt", "by_one.pt"):
                shutil.copy(folder / "whole.pt", folder / name)

    with joined(CPU):
        results: dict[str, Any] = {name: train(case) for name, case in CASES.items()}
        results["whole"] = train(CASES["weighted"], folder / "whole.pt", log=keep)
        meet()
        results["resumed"] = train(CASES["weighted"], folder / "by_two.pt")
        results["joined_later"] = train(CASES["weighted"], folder / "begun_by_one.pt")
        seen = {name: [tuple(batch) for batch in epoch_of(case)] for name, case in CASES.items()}
        torch.save({"results": results, "seen": seen, "logged": logged}, folder / f"{rank()}.saved")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
