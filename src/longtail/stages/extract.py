"""Stage `extract@<representation>`: trained networks in, feature banks out.

Test features go to a file of their own, which only `evaluate` opens: no balancer ever sees a test image.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from longtail.features.bank import extract
from longtail.images.split_files import load_split
from longtail.models.saved import NetworkDescription
from longtail.stages.job import Job, run_stage
from longtail.training.hardware import select_device
from longtail.training.inference import features_of


def extract_row(job: Job) -> None:
    """Extract the features of every seed's network."""
    split, models, device = load_split(Path("data/split")), Path("models") / job.row, select_device()
    description, augmentation = NetworkDescription.load(models), job.params.plan_of(job.row).augmentation
    for seed in job.params.seeds:
        network = description.load_weights(models / f"seed_{seed}" / "weights.safetensors")
        bank = extract(network, split, augmentation, job.params.extract, seed, device)
        bank.save(job.folder(seed) / "bank.safetensors")
        test = torch.cat(list(features_of(network, split.test, device)))
        save_file({"features": test, "labels": split.test.labels}, job.folder(seed) / "test.safetensors")
        views, images, size = bank.features.shape
        print(f"{job.name} seed {seed}: {views} views of {images:,} images, {size} features each", flush=True)


if __name__ == "__main__":
    run_stage("extract", "features/{row}", extract_row)
