"""Stage `evaluate@<method>`: classifiers and test features in, probabilities of every test image and metrics out.

Beside the metrics stands the size of the network that serves, in parameters.

A classifier that brings BatchNorm statistics (MiSLAS) meets features computed again: those that `extract` saved are of
the network without them.

Nothing here chooses anything: the network of the last epoch and the classifier of the last epoch are what is tested.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from longtail.evaluation import Metrics, Predictions, evaluate, metrics_document, save_predictions
from longtail.images.labeled import LabeledImages
from longtail.images.split_files import load_split
from longtail.models.classifier import Classifier
from longtail.models.saved import NetworkDescription
from longtail.stages.job import Job, run_stage
from longtail.training.hardware import select_device
from longtail.training.inference import features_of


def evaluate_method(job: Job) -> None:
    """Evaluate the method's classifier of every seed, in float32."""
    split = load_split(Path("data/split"))
    representation = job.params.methods[job.row].representation
    per_seed: dict[int, Metrics] = {}
    for seed in job.params.seeds:
        classifier = Classifier.load(Path("classifiers") / job.row / f"seed_{seed}" / "classifier.safetensors")
        probabilities = classifier(features_for(classifier, split.test, representation, seed)).softmax(1)
        predictions = Predictions(tuple(split.test.ids), split.test.labels, probabilities)
        per_seed[seed] = evaluate(probabilities, split.test.labels, split.class_counts, job.params.evaluation)
        save_predictions(predictions, job.out / f"seed_{seed}.safetensors")
    document = {
        "parameters": parameters_of(Path("models") / representation, job.params.seeds[0]),
        **metrics_document(per_seed),
    }
    (job.out / "metrics.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    overall = torch.tensor([metrics.values["overall"] for metrics in per_seed.values()])
    print(
        f"{job.name}: {100 * float(overall.mean()):.1f} % of the test images, mean of {len(overall)} seeds", flush=True
    )


def features_for(classifier: Classifier, test: LabeledImages, representation: str, seed: int) -> Tensor:
    """Return the test features (N, D) float32 that a classifier was made for."""
    if classifier.statistics is None:
        return load_file(Path("features") / representation / f"seed_{seed}" / "test.safetensors")["features"]
    models, device = Path("models") / representation, select_device()
    network = NetworkDescription.load(models).load_weights(models / f"seed_{seed}" / "weights.safetensors")
    moved = network.with_statistics(classifier.statistics).to(device).freeze()
    return torch.cat(list(features_of(moved, test, device)))


def parameters_of(models: Path, seed: int) -> int:
    """Count the learnable numbers of the network that serves: feature extractor and classifier, frozen or not.

    BatchNorm's running statistics are no parameters. What stage one trained beside the network and dropped (RSG's
    generator) is in no file of `models`, and a classifier of stage two has the shape of stage one's.

    Args:
        models: models/<representation>.
        seed: any that was trained; all have one shape.
    """
    # The built network separates parameters from buffers; the names in the file would have to be parsed.
    network = NetworkDescription.load(models).load_weights(models / f"seed_{seed}" / "weights.safetensors")
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    run_stage("evaluate", "evaluations/{row}", evaluate_method)
