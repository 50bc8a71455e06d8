"""What every learner promises, whatever it does with its batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forked
import tiny
from longtail.learners import Learner
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches
from longtail.loading.sampling import Sampler
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.loop import History, Run, Step, fit
from longtail.training.objective import Objective, Reweighting
from longtail.training.plans import CosineSchedule, Optimisation
from unions import members, name_of

# At least one row per member, with the samplers that it takes.
ROWS: list[tuple[dict[str, Any], tuple[Sampler, ...]]] = [
    ({"name": "plain"}, ("instance_balanced",)),
    ({"name": "bbn"}, ("instance_balanced", "reversed")),
    ({"name": "cam_bs", "threshold": 0.75}, ("class_balanced",)),
    ({"name": "mixup", "alpha": 1.0, "until": 0.7}, ("instance_balanced",)),
    ({"name": "remix", "alpha": 1.0, "kappa": 3.0, "tau": 0.5}, ("instance_balanced",)),
    (
        {"name": "cmo", "probability": 0.5, "beta": 1.0, "start": 0.2, "stop": 0.985},
        ("instance_balanced", "class_balanced"),
    ),
    (
        {
            "name": "m2m",
            "start": 0.4,
            "beta": 0.9,
            "lam": 0.5,
            "gamma": 0.2,
            "noise": 0.5,
            "steps": 3,
            "step_size": 0.1,
        },
        ("instance_balanced", "class_balanced"),
    ),
    (
        {
            "name": "csa",
            "threshold": 0.2,
            "volume": 16,
            "start": 0.25,
            "emptied": "each_epoch",
            "bank": True,
            "mask": True,
            "masks_from": "uniform",
            "mixing": "random",
            "mixup": {"alpha": 1.0, "until": 0.7},
        },
        ("instance_balanced", "class_aware"),
    ),
    (
        {
            "name": "rsg",
            "centres": 2,
            "head_share": 0.4,
            "transfer_strength": 1.0,
            "lambda_cesc": 0.1,
            "lambda_mv": 0.01,
            "start": 0.5,
            "position": -1,
            "cm_kernel": 3,
            "cm_pair": "paper",
            "mv_layout": "paper",
            "mv_terms": ["direction", "length", "contrast"],
            "generation": "transform",
        },
        ("instance_balanced",),
    ),
]
LEARNERS = {name_of(member): member for member in members(Learner)}
# The networks of learners that need one of their own, and what of it idles at progress 0.
NETWORKS = {"bbn": forked.make_network}
IDLE_AT_FIRST = {"bbn": "stages.1.reversed."}
every_learner = pytest.mark.parametrize(("row", "samplers"), ROWS, ids=[row["name"] for row, _ in ROWS])
AUGMENTATION = Augmentation(crop="pad", pad=1, flip=True, jitter=0, policy="none", cutout=2)
PLAN = Optimisation(
    epochs=4,
    batch_size=16,
    lr=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    warmup=1,
    schedule=CosineSchedule(),
)


class Killed(BaseException):
    """Like KeyboardInterrupt."""


def network_for(row: dict[str, Any], seed: int = 0) -> Network:
    return NETWORKS.get(row["name"], tiny.make_network)(seed)


def step_for(row: dict[str, Any], network: Network) -> Step:
    loss, deferred = GradualBalanced(form="convex", s=1, c=2), Reweighting(beta=0.99, start=0.5, divisor="weights")
    step: Step = LEARNERS[row["name"]](**row).step_for(network, Objective(loss, deferred, torch.tensor(tiny.COUNTS)))
    return step


def batches_for(samplers: tuple[Sampler, ...], seed: int = 0) -> ImageBatches:
    return ImageBatches(tiny.make_split().train, samplers, 16, AUGMENTATION, PLAN.epochs, seed)


def ready(batch: Batch) -> Batch:
    return Batch(batch.images / 255, batch.labels)


def train(row: dict[str, Any], samplers: tuple[Sampler, ...], seed: int = 0, **more: Any) -> tuple[Step, list[History]]:
    step = step_for(row, network_for(row, seed))
    where = Run(name="train@tiny seed 0", seed=seed, device=torch.device("cpu"), **more)
    return step, fit(step, batches_for(samplers, seed), PLAN, where)


def bits(step: nn.Module) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in step.state_dict().items()}


def test_every_member_is_under_contract() -> None:
    missing = set(LEARNERS) - {row["name"] for row, _ in ROWS}
    assert not missing, f"add a row for {missing} to ROWS"


@every_learner
@pytest.mark.parametrize("t", [0.0, 0.5, 0.99])
def test_gradients_reach_every_parameter_of_the_network(row: dict[str, Any], samplers: Any, t: float) -> None:
    network = network_for(row)
    step = step_for(row, network).train()
    batches = [ready(batch) for batch in next(batches_for(samplers).epoch(0))]
    loss: Tensor = step(*batches, progress=torch.tensor(t), generator=generator(0, "step"))
    assert loss.shape == ()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    idle = [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()]
    if t == 0 and row["name"] in IDLE_AT_FIRST:
        idle = [name for name in idle if not name.startswith(IDLE_AT_FIRST[row["name"]])]
    assert not idle, f"no gradient reaches {idle}"


@every_learner
def test_a_batch_of_one_class_works(row: dict[str, Any], samplers: Any) -> None:
    data = tiny.make_split().train
    assert isinstance(data.images, Tensor)
    for label in range(5):
        chosen = data.labels == label
        batches = [Batch(data.images[chosen] / 255, data.labels[chosen])] * len(samplers)
        step = step_for(row, network_for(row)).train()
        assert step(*batches, progress=torch.tensor(0.9), generator=generator(0, "step")).isfinite()


@every_learner
def test_batches_are_not_changed(row: dict[str, Any], samplers: Any) -> None:
    batches = [ready(batch) for batch in next(batches_for(samplers).epoch(0))]
    before = [(batch.images.clone(), batch.labels.clone()) for batch in batches]
    step_for(row, network_for(row)).train()(*batches, progress=torch.tensor(0.9), generator=generator(0, "step"))
    for (images, labels), batch in zip(before, batches, strict=True):
        assert images.equal(batch.images)
        assert labels.equal(batch.labels)


@every_learner
def test_equal_seeds_give_equal_bits_and_others_do_not(row: dict[str, Any], samplers: Any) -> None:
    before = torch.get_rng_state()
    (first, rows), (again, same_rows), (other, _) = (train(row, samplers, seed) for seed in (0, 0, 1))
    assert bits(first) == bits(again)
    assert rows == same_rows
    assert bits(first) != bits(other)
    assert torch.get_rng_state().equal(before)


@every_learner
@pytest.mark.parametrize("last", range(3))
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(
    row: dict[str, Any], samplers: Any, last: int, tmp_path: Path
) -> None:
    def log(history_row: History) -> None:
        if history_row["epoch"] == last:
            raise Killed

    checkpoint = tmp_path / "seed_0.pt"
    with pytest.raises(Killed):
        train(row, samplers, checkpoint=checkpoint, log=log)
    resumed, rows = train(row, samplers, checkpoint=checkpoint)
    whole, same_rows = train(row, samplers)
    assert bits(resumed) == bits(whole)
    assert rows == same_rows


@every_learner
def test_it_trains_the_network_it_was_given_and_leaves_no_trace_in_it(row: dict[str, Any], samplers: Any) -> None:
    network = network_for(row)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step = step_for(row, network)
    fit(step, batches_for(samplers), PLAN, Run(name="tiny", seed=0, device=torch.device("cpu")))
    after = network.state_dict()
    assert list(after) == list(before)
    assert {name for name, tensor in after.items() if tensor.equal(before[name])} == {
        "stages.0.0.mean",
        "stages.0.0.std",
    }
