"""What the methods of a finished trial reach on the validation images, the only ones that may choose a number.

Started in the trial's clone, with the clone's own sources: `python -P pipelines/sweep_scores.py FILE`. Every method is
measured alike: the network and the classifier of the last epoch, which are what is tested and served.
"""

import json
import sys
from pathlib import Path
from typing import Any

from longtail.evaluation import Metrics, evaluate, summarize
from longtail.features.bank import FeatureBank
from longtail.images.split_files import load_split
from longtail.models.classifier import Classifier
from longtail.params import Params, load_params
from longtail.spec import InputError
from longtail.stages.evaluate import features_for


def validate(params: Params, method: str, seed: int) -> Metrics | None:
    """Return the metrics of one method and seed on the validation images, None where there are none."""
    representation = params.methods[method].representation
    bank = FeatureBank.load(Path("features") / representation / f"seed_{seed}" / "bank.safetensors")
    if not len(bank.val_labels):
        return None
    classifier = Classifier.load(Path("classifiers") / method / f"seed_{seed}" / "classifier.safetensors")
    features = bank.val_features.float()
    if classifier.statistics is not None:  # it was made for other features than the bank's
        features = features_for(classifier, load_split(Path("data/split")).val, representation, seed)
    return evaluate(classifier(features).softmax(1), bank.val_labels, bank.class_counts, params.evaluation)


def summaries(params: Params) -> dict[str, Any]:
    """Return method -> metric -> {mean, std, n} over the seeds; None for a method without validation images."""
    found = {method: [validate(params, method, seed) for seed in params.seeds] for method in params.methods}
    present = {method: [metrics for metrics in all_seeds if metrics] for method, all_seeds in found.items()}
    return {method: summarize(per_seed) if per_seed else None for method, per_seed in present.items()}


def main() -> int:
    """Write the summaries of the present folder into the file that the command line names."""
    try:
        Path(sys.argv[1]).write_text(json.dumps(summaries(load_params()), allow_nan=False))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
