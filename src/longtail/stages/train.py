"""Stage `train@<representation>`: a split in, one trained network per seed out."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_model

from longtail.distributed import joined
from longtail.images.labeled import LongTailSplit
from longtail.images.split_files import load_split
from longtail.loading.batches import ImageBatches
from longtail.models.network import Network
from longtail.models.saved import NetworkDescription, save_weights
from longtail.params import Params
from longtail.spec import InputError
from longtail.stages.job import Job, run_stage
from longtail.training.hardware import compile_stages, select_device, select_precision, should_compile
from longtail.training.inference import validation_accuracy
from longtail.training.loop import History, Run, fit
from longtail.training.objective import Objective
from longtail.workspace import checkpoints, code_digest, digest_of


def check_several(params: Params, row: str, devices: int) -> None:
    """Refuse what several devices would compute differently, or not at all.

    Raises:
        InputError: the row's learner looks at a batch as a whole, or a batch has fewer rows than there are devices.
    """
    learner, batch_size = params.representations[row].learner, params.plan_of(row).batch_size
    if not learner.several_devices:
        raise InputError(
            f"representations.{row}.learner is {learner.name}, but LONGTAIL_DEVICES is {devices}, and only the learner "
            "plain trains on several devices: others look at a whole batch at once. Unset LONGTAIL_DEVICES for it."
        )
    if batch_size < devices:
        raise InputError(
            f"plan.batch_size of {row} is {batch_size}, but LONGTAIL_DEVICES is {devices}; each needs at least one row."
        )


def train(job: Job) -> None:
    """Train the row's representation once per seed, together with the other processes if there are several."""
    device = select_device()
    with joined(device):
        _train(job, device)


def _train(job: Job, device: torch.device) -> None:
    split = load_split(Path("data/split"))
    job.track.dataset(split)
    row, plan = job.params.representations[job.row], job.params.plan_of(job.row)
    description = NetworkDescription.of(job.params.network_of(job.row), split)
    precision = select_precision(plan, device)
    compiled = should_compile(plan, len(split.train), description.image_size, device)
    how = (str(precision), compiled, device.type)
    identity = digest_of(job.name, row.model_dump(), plan.model_dump(), description.model_dump(), how, split.digest)
    with checkpoints(digest_of(identity, code_digest())) as folder:
        for seed in job.params.seeds:
            run = Run(
                name=f"{job.name} seed {seed}",
                seed=seed,
                device=device,
                checkpoint=folder / f"seed_{seed}.pt",
                log=partial(job.track.log, seed),
                precision=precision,
                compiled=compiled,
            )
            network, history = _train_seed(job, description, split, run)
            job.write_history(seed, history)
            save_weights(network, job.folder(seed) / "weights.safetensors")
        description.scaled(row.loss.logit_scale).save(job.out)


def _train_seed(
    job: Job, description: NetworkDescription, split: LongTailSplit, run: Run
) -> tuple[Network, list[History]]:
    row, plan = job.params.representations[job.row], job.params.plan_of(job.row)
    network = description.build(run.seed)
    if row.start_from != "data/split":
        load_model(network, Path(row.start_from) / f"seed_{run.seed}" / "weights.safetensors")
    network.to(memory_format=torch.channels_last)
    step = row.learner.step_for(network, Objective(row.loss, row.reweighting, split.class_counts))
    if row.learner.trains_afresh:  # the step has its copy of the weights that the row starts from
        network.load_state_dict(description.build(run.seed).state_dict())
    if run.compiled:
        compile_stages(network, row.learner.varies_from)
    batches = ImageBatches(split.train, row.samplers, plan.batch_size, plan.augmentation, plan.epochs, run.seed)

    def validate(epoch: int) -> History:
        due = epoch + 1 == plan.epochs or (plan.validate_every and (epoch + 1) % plan.validate_every == 0)
        return {"val_accuracy": validation_accuracy(network, split.val, run.device)} if due and len(split.val) else {}

    return network, fit(step, batches, plan, run, validate)


if __name__ == "__main__":
    run_stage("train", "models/{row}", train, check_several)
