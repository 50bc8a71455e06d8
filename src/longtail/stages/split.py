"""Stage `split`: images in, a long-tailed split out."""

from pathlib import Path

from longtail.data.split import build_split
from longtail.images.labeled import LongTailSplit
from longtail.images.split_files import save_split
from longtail.models import BACKBONES
from longtail.models.saved import NetworkDescription
from longtail.params import Params
from longtail.spec import InputError
from longtail.stages.job import Job, run_stage


def split(job: Job) -> None:
    """Choose the images of train, val and test, and write them."""
    made = build_split(job.params.data, Path("data/assignment.csv"))
    check_fit(job.params, made)
    save_split(made, job.out)
    job.track.dataset(made)
    counts = made.class_counts.tolist()
    print(
        f"split: {len(made.train):,} training images of {len(counts)} classes ({max(counts)} to {min(counts)} each), "
        f"{len(made.val):,} validation, {len(made.test):,} test, digest {made.digest[:12]}",
        flush=True,
    )


def check_fit(params: Params, made: LongTailSplit) -> None:
    """Refuse now what only the data can show, rather than after hours of training.

    Raises:
        InputError: the index ranges do not cover the classes, or a backbone does not take such images.
    """
    params.evaluation.check(len(made.classes))
    for name in params.representations:
        network = NetworkDescription.of(params.network_of(name), made)
        backbone = BACKBONES[network.network.backbone]
        if not backbone.takes(network.channels, network.image_size):
            raise InputError(
                f"network.backbone of representations.{name} is {network.network.backbone}, which takes "
                f"{backbone.images}, but the data's have {network.channels} of {network.image_size} pixels. "
                "Choose another backbone, or bring the images to another size."
            )


if __name__ == "__main__":
    run_stage("split", "data/split", split)
