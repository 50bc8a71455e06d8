"""Stage `finetune@<method>`: a feature bank in, one balanced classifier per seed out."""

from functools import partial
from pathlib import Path

from safetensors.torch import save_file

from longtail.features.bank import FeatureBank
from longtail.images.split_files import load_split
from longtail.models.saved import NetworkDescription
from longtail.stages.job import Job, run_stage
from longtail.training.hardware import select_device
from longtail.training.loop import Run
from longtail.workspace import checkpoints, code_digest, digest_of


def finetune(job: Job) -> None:
    """Fit the method's balancer once per seed."""
    split, device = load_split(Path("data/split")), select_device()
    job.track.dataset(split)
    method = job.params.methods[job.row]
    stage_one = job.params.representations[method.representation].model_dump()
    plan, extraction = job.params.plan_of(method.representation).model_dump(), job.params.extract.model_dump()
    identity = digest_of(job.name, method.model_dump(), stage_one, plan, extraction, device.type, split.digest)
    models, features = Path("models") / method.representation, Path("features") / method.representation
    description = NetworkDescription.load(models)
    with checkpoints(digest_of(identity, description.model_dump(), code_digest())) as folder:
        for seed in job.params.seeds:
            network = description.load_weights(models / f"seed_{seed}" / "weights.safetensors").to(device).freeze()
            bank = FeatureBank.load(features / f"seed_{seed}" / "bank.safetensors")
            name, checkpoint = f"{job.name} seed {seed}", folder / f"seed_{seed}.pt"
            run = Run(name, seed, device, checkpoint, partial(job.track.log, seed))
            classifier, history = method.balancer.fit(bank, network, split, run)
            classifier.save(job.folder(seed) / "classifier.safetensors")
            job.write_history(seed, history)
            if examples := method.balancer.generated(bank, history, run):  # to look at, in the report
                save_file(examples, job.folder(seed) / "generated.safetensors")


if __name__ == "__main__":
    run_stage("finetune", "classifiers/{row}", finetune)
