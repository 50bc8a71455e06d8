"""Stage `evaluate@<method>`: classifiers and test features in, probabilities of every test image and metrics out.

Nothing here chooses anything: the network of the last epoch and the classifier of the last epoch are what is tested.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from longtail.data.split_files import load_split
from longtail.evaluation import Metrics, Predictions, evaluate, metrics_document, save_predictions
from longtail.models.classifier import Classifier
from longtail.stages.job import Job, run_stage


def evaluate_method(job: Job) -> None:
    """Evaluate the method's classifier of every seed, in float32."""
    split = load_split(Path("data/split"))
    features = Path("features") / job.params.methods[job.row].representation
    per_seed: dict[int, Metrics] = {}
    for seed in job.params.seeds:
        classifier = Classifier.load(Path("classifiers") / job.row / f"seed_{seed}" / "classifier.safetensors")
        test = load_file(features / f"seed_{seed}" / "test.safetensors")
        probabilities = classifier(test["features"]).softmax(1)
        predictions = Predictions(tuple(split.test.ids), test["labels"], probabilities)
        per_seed[seed] = evaluate(probabilities, test["labels"], split.class_counts, job.params.evaluation)
        save_predictions(predictions, job.out / f"seed_{seed}.safetensors")
    document = metrics_document(per_seed)
    (job.out / "metrics.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    overall = torch.tensor([metrics.values["overall"] for metrics in per_seed.values()])
    print(
        f"{job.name}: {100 * float(overall.mean()):.1f} % of the test images, mean of {len(overall)} seeds", flush=True
    )


if __name__ == "__main__":
    run_stage("evaluate", "evaluations/{row}", evaluate_method)
