"""Every row of every shipped params file takes a real step: its network, at its image size, with its learner and loss.

Only the classes are few, and images for the ImageNet networks 64 pixels wide. tests/stages/test_large_presets.py runs
the large presets through the stages.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dvc.utils.serialize import load_yaml
from pydantic import TypeAdapter
from torch import nn

from longtail.balancers import Balancer
from longtail.features.bank import ExtractSpec, extract
from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import ImageBatches
from longtail.models.network import Network
from longtail.models.saved import NetworkDescription
from longtail.params import Params, Representation, load_params
from longtail.seeding import generator
from longtail.training.loop import Run
from longtail.training.objective import Objective
from longtail.training.plans import Plan
from pipelines.variants import read_variant

FOLDER = Path(__file__).parent.parent / "benchmarks"
FILES = sorted(FOLDER.glob("*.yaml"))
TABLES = sorted((FOLDER / "published").glob("*.yaml"))
COUNTS = (12, 8, 6, 5, 4, 3, 2, 2, 1, 1)
BATCH = 4
LATE = 0.95  # progress of the step: every deferred part is at work
LARGE = 64  # pixels; the activation maps of an ImageNet network then have 2 x 2 places
CPU = torch.device("cpu")
SIDES = {"train": COUNTS, "val": (1,) * 10}
PLAIN = Augmentation(crop="none", pad=0, flip=True, jitter=0, policy="none", cutout=0)
SHORT = {"epochs": 1, "warmup": 0, "batch_size": 16, "above": 5, "iterations": 1}  # of a balancer's row
SHAPES = {
    "digits": (1, 8), "mnist": (1, 28), "fashion_mnist": (1, 28), "cifar10": (3, 32), "cifar100": (3, 32)
}  # fmt: skip

by_name = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@by_name
def test_dvc_reads_what_we_read(file: Path) -> None:
    assert load_yaml(str(file)) == yaml.safe_load(file.read_text())


@by_name
def test_a_preset_says_what_it_is(file: Path) -> None:
    comment = file.read_text().split("\nseeds:")[0]
    assert comment.startswith("# ") and len(comment) > 80


def test_the_readme_names_every_preset() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"`(\w+\.yaml)`", text)) - {"params.yaml"} == {file.name for file in FILES}


@pytest.mark.parametrize("tables", TABLES, ids=lambda file: file.stem)
def test_published_tables_are_of_settings_that_can_be_run(tables: Path) -> None:
    file = FOLDER / tables.name
    for entry in yaml.safe_load(tables.read_text()):
        words = [f"{key}={json.dumps(value)}" for key, value in entry["set"].items()]
        params = Params.model_validate(yaml.safe_load(read_variant(file, words).text))
        assert params.published == entry["published"] != load_params(file).published
        if ranges := params.evaluation.index_ranges:
            assert sum(ranges) == (10 if params.data.name == "cifar10" else 100)


@by_name
def test_every_row_takes_a_training_step(file: Path) -> None:
    params = load_params(file)
    for name, row in params.representations.items():
        description = describe(params, name)
        step_once(description.model_dump_json(), params.plan_of(name).model_dump_json(), row.model_dump_json())


@by_name
def test_every_method_balances_a_classifier(file: Path) -> None:
    params = load_params(file)
    for method in params.methods.values():
        if method.balancer.name == "keep":  # nothing to fit, on features of the largest networks
            continue
        description = describe(params, method.representation)
        balance(description.model_dump_json(), json.dumps(shortened(method.balancer.model_dump(mode="json"))))


def describe(params: Params, representation: str) -> NetworkDescription:
    """Describe a row's network for ten classes, with fresh weights."""
    channels, size = SHAPES.get(params.data.name) or (3, min(getattr(params.data, "image_size", 0), LARGE))
    network = params.network_of(representation).model_copy(update={"weights": None})
    return NetworkDescription.of(network, random_split(channels, size))


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Keep one epoch of a balancer's plan, and head classes where the largest has 12 images."""
    for key, value in row.items():
        row[key] = shortened(value) if isinstance(value, dict) else SHORT.get(key, value)
    return row


@cache  # the same row is in several presets
def step_once(description_json: str, plan_json: str, row_json: str) -> None:
    """Take one step on random images."""
    description = NetworkDescription.model_validate_json(description_json)
    row, plan = Representation.model_validate_json(row_json), Plan.model_validate_json(plan_json)
    split, network = random_split(description.channels, description.image_size), description.build(0)
    step = row.learner.step_for(network, Objective(row.loss, row.reweighting, split.class_counts)).train()
    batches = ImageBatches(split.train, row.samplers, BATCH, plan.augmentation, plan.epochs, 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], 0.01)
    batch = map(ready, next(iter(batches.epoch(int(LATE * plan.epochs)))))
    loss = step(*batch, progress=torch.tensor(LATE, dtype=torch.float64), generator=generator(0, "step"))
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and all(bool(p.isfinite().all()) for p in step.parameters())
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "classifier.weight" in moved and any(name.startswith("stages.0") for name in moved)


def ready(batch: Any) -> Any:
    return type(batch)(batch.images.float() / 255, batch.labels)


@cache
def balance(description_json: str, balancer_json: str) -> None:
    """Fit a balancer on a fresh network's features of random images."""
    description = NetworkDescription.model_validate_json(description_json)
    balancer: Balancer = TypeAdapter(Balancer).validate_json(balancer_json)
    split, network = random_split(description.channels, description.image_size), fresh(description_json)
    bank = extract(network, split, PLAIN, ExtractSpec(views=1, max_gigabytes=1), 0, CPU)
    classifier, history = balancer.fit(bank, network, split, Run("preset", 0, CPU))
    assert classifier(bank.view(0)).shape == (len(split.train), 10)
    assert bool(classifier.weight.isfinite().all()) and history is not None


@cache
def fresh(description_json: str) -> Network:
    """Build a network whose BatchNorm has seen images: deep ones overflow without."""
    description = NetworkDescription.model_validate_json(description_json)
    network, split = description.build(0).train(), random_split(description.channels, description.image_size)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # the statistics are those of the one batch
    assert isinstance(split.val.images, torch.Tensor)
    assert isinstance(split.val.images, torch.Tensor)
    with torch.no_grad():
        network(split.val.images.float() / 255)
    return network.freeze()


@cache
def random_split(channels: int, size: int) -> LongTailSplit:
    """Make ten classes of random images: 44 for training, 10 for validation and to test."""
    train, val = (random_images(side, counts, channels, size) for side, counts in SIDES.items())
    names, mean = tuple(f"class {k}" for k in range(10)), (0.5,) * channels
    return LongTailSplit(train, val, val, names, mean, mean, "random")


def random_images(side: str, counts: tuple[int, ...], channels: int, size: int) -> LabeledImages:
    labels = torch.repeat_interleave(torch.tensor(counts))
    images = torch.randint(0, 256, (len(labels), channels, size, size), generator=generator(0, side))
    return LabeledImages(images.to(torch.uint8), labels, len(counts), [f"{side}/{i}" for i in range(len(labels))])
