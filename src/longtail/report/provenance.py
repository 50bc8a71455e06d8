"""Where numbers come from: data, hardware, commit, library versions. No number is shown without them."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from longtail.git import GitError, git
from longtail.images.labeled import LongTailSplit

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "torchmetrics")


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a table come from.

    Args:
        data: the data set and its split in words, see `describe`.
        digest: sha256 of the chosen images.
        seeds: training seeds.
        hardware, commit, versions: see the functions of these names.
    """

    data: str
    digest: str
    seeds: tuple[int, ...]
    hardware: str
    commit: str
    versions: str


def describe(name: str, profile: str, split: LongTailSplit) -> str:
    """Say in words what was trained and tested on."""
    counts = split.class_counts
    most, least = int(counts.max()), int(counts.min())
    return (
        f"{name}, {profile} profile: {len(split.train):,} training images in {len(counts)} classes ({most:,} to "
        f"{least:,} each), {len(split.val):,} validation images, {len(split.test):,} test images"
    )


def hardware(device: torch.device) -> str:
    """Name the processor, the cores open to us and, if `device` is one, the GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    return ", ".join([_processor(), f"{cores} {'core' if cores == 1 else 'cores'}", *gpu])


RESULTS = ("dvc.lock", "reports", "benchmarks/results", "data/assignment.csv")


def commit(root: Path, aside: tuple[str, ...] = ()) -> str:
    """Return the short commit; with +dirty if tracked files other than results differ.

    Outside git it is $LONGTAIL_COMMIT, for machines that have a copy of the files alone, or else "unknown".

    Args:
        aside: further files that may differ, since what they say is recorded elsewhere.
    """
    left_out = [f":(top,exclude){path}" for path in (*RESULTS, *aside)]
    try:
        head = git(root, "rev-parse", "--short", "HEAD")
        changes = git(root, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", *left_out)
    except GitError:
        return os.environ.get("LONGTAIL_COMMIT", "unknown")
    return f"{head}+dirty" if changes else head


def versions() -> str:
    """List Python and the libraries that the numbers depend on."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
