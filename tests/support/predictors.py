"""A predictor in which nothing is neutral."""

from pathlib import Path

import torch

from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.saved import NetworkDescription
from longtail.params import load_params
from longtail.seeding import generator
from longtail.serving.predictor import Predictor

PARAMS = Path(__file__).parents[2] / "params.yaml"


def make_predictor(split: LongTailSplit) -> Predictor:
    """Build a network with random running statistics and a classifier not its own, so that nothing is neutral."""
    description = NetworkDescription.of(load_params(PARAMS).network, split)
    network = description.build(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2, generator=generator(0, "running variance"))  # type: ignore[union-attr]
    own = network.classifier.export()
    classifier = Classifier(3 * own.weight, own.bias + 0.1, power=0.5, centre=own.weight.mean(0), unit_norm=True)
    return Predictor(description, network.freeze(), classifier)
