"""CSA against Algorithm 1 in plain loops, its limits, who gets gradients, and its pitfalls."""

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import tiny
from csa_oracle import ROW, STEPS, batches, compare, make_step, row
from longtail.learners import Learner
from longtail.learners.csa import CSA, CSAStep, mix, second_classifier
from longtail.learners.plain import Plain
from longtail.loading.batches import Batch
from longtail.losses.cross_entropy import CrossEntropy
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.objective import Objective

MIXUP = {"alpha": 1.0, "until": 0.7}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "mixup": {"mixup": MIXUP},
    "mixup_of_imagenet": {"mixup": {"alpha": 0.2, "until": 1.0}},
    "without_bank": {"bank": False},
    "without_mask": {"mask": False},
    "masks_from_the_balanced_classifier": {"masks_from": "balanced"},
    "fixed_share": {"mixing": 0.5},
    "emptied_once": {"emptied": "once"},
    "volume_below_the_batch": {"volume": 6},
    "every_image": {"threshold": 0.0},
}


def at(progress: float) -> Tensor:
    return torch.tensor(progress, dtype=torch.float64)


def run(step: CSAStep, index: int, progress: float, size: int = 10) -> Tensor:
    loss: Tensor = step(*batches(index, size), progress=at(progress), generator=generator(index, "draws"))
    return loss


def gradient_of(loss: Tensor, value: Tensor) -> Tensor | None:
    """Return the gradient, or None where no path leads from the value to the loss."""
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, value, allow_unused=True)
    return gradients[0]


def filled(**changes: Any) -> CSAStep:
    """Return a step whose bank holds the contexts of one batch."""
    step = make_step(row(threshold=0.0, **changes))
    run(step, 0, 0.5)
    assert len(step.bank) == 10
    return step


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_algorithm_1(variant: str) -> None:
    assert compare(row(**VARIANTS[variant]))["balanced"] > 0


def test_the_comparison_meets_every_case() -> None:
    seen: Counter[str] = compare(row(mixup=MIXUP))
    cases = {"emptied", "unsure", "waited", "negative", "overshoot", "balanced", "pushed out", "mixup"}
    assert {case for case in cases if seen[case]} == cases


def test_learning_from_the_start_on_only_is_plain_until_then() -> None:
    step, network = make_step(row(start=1)), make_step(row()).network
    plain = Plain().step_for(network, step.objective)
    for index, (progress, size) in enumerate(STEPS):
        expected = plain(batches(index, size)[0], progress=at(progress), generator=generator(index, "draws"))
        assert run(step, index, progress, size).equal(expected)
    assert all(one.equal(two) for one, two in zip(step.network.buffers(), network.buffers(), strict=True))


@pytest.mark.parametrize(("epoch", "starts"), [(9, False), (10, True)])
def test_the_balanced_branch_starts_at_epoch_10_of_200(epoch: int, starts: bool) -> None:
    step = make_step(row(start=0.05, threshold=0.0))
    gradient = gradient_of(run(step, 0, epoch / 200), step.balanced.weight)
    assert (gradient is not None) == starts


def test_without_a_share_of_contexts_the_branch_sees_its_images_as_they_are() -> None:
    mixed, without = filled(mixing=0.0), filled()
    without.spec = row(bank=False)
    torch.testing.assert_close(run(mixed, 1, 0.5), run(without, 1, 0.5), rtol=1e-12, atol=1e-12)


def test_no_share_or_no_background_leaves_images_as_they_are() -> None:
    images, contexts = torch.rand(2, 4, 3, 8, 8, generator=generator(0, "images"))
    masks = torch.rand(4, 1, 8, 8, generator=generator(0, "masks"))
    assert mix(images, contexts, masks, 0.0).equal(images)
    assert mix(images, contexts, torch.zeros_like(masks), 0.7).equal(images)
    assert mix(images, contexts, torch.ones_like(masks), 1.0).equal(contexts)
    assert mix(images, contexts, masks, 0.7).is_contiguous(memory_format=torch.channels_last)


def test_each_classifier_learns_from_its_own_branch_and_the_backbone_from_both() -> None:
    step = filled()
    uniform, balanced = batches(1, 10)
    f_u, f_b, backbone = step.network.classifier.weight, step.balanced.weight, next(step.network.parameters())
    for loss, learns in (
        (step.balanced_loss(balanced, at(0.5), generator(0, "draws")), (False, True, True)),
        (step.uniform_loss(uniform, at(0.5), generator(0, "draws")), (True, False, True)),
    ):
        gradients = torch.autograd.grad(loss, (f_u, f_b, backbone), allow_unused=True)
        assert tuple(gradient is not None and bool(gradient.any()) for gradient in gradients) == learns


def test_contexts_are_detached() -> None:
    step = make_step(row(threshold=0.0))
    uniform, balanced = batches(0, 10)
    images = uniform.images.requires_grad_()
    step.collect(Batch(images, uniform.labels))
    loss = step.balanced_loss(balanced, at(0.5), generator(0, "draws"))
    assert gradient_of(loss, images) is None


def test_the_mask_pass_leaves_the_network_as_it_was() -> None:
    step = make_step(row(threshold=0.0))
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    step.collect(batches(0, 10)[0])
    assert all(value.equal(before[name]) for name, value in step.network.state_dict().items())
    assert all(module.training for module in step.network.modules())
    assert all(parameter.grad is None for parameter in step.parameters())


def blind(step: CSAStep, weight: float) -> CSAStep:
    """Make f_u sure of every image, of class 0 by its bias, with weights that make CAMs of no use."""
    classifier = step.network.classifier
    assert isinstance(classifier, LinearClassifier)
    with torch.no_grad():
        classifier.weight.fill_(weight)
        classifier.bias.fill_(-50.0)
        classifier.bias[0] = 50.0
    return step


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_images_known_by_the_bias_alone_give_no_context(weight: float) -> None:
    step = blind(make_step(row(threshold=0.8)), weight)
    batch = Batch(batches(0, 10)[0].images, torch.zeros(10, dtype=torch.int64))
    loss = step(batch, batch, progress=at(0.5), generator=generator(0, "draws"))
    assert len(step.bank) == 0
    assert loss.isfinite()
    assert gradient_of(loss, step.balanced.weight) is None


def test_without_masks_such_images_are_contexts_all_the_same() -> None:
    step = blind(make_step(row(threshold=0.8, mask=False)), 0.0)
    step.collect(Batch(batches(0, 10)[0].images, torch.zeros(10, dtype=torch.int64)))
    assert len(step.bank) == 10


def test_a_broken_image_gives_no_context_and_no_nan() -> None:
    step = make_step(row(threshold=0.0))
    images, labels = batches(0, 10)[0]
    images[3] = torch.nan
    step.collect(Batch(images, labels))
    assert len(step.bank) == 9
    assert step.bank.images.isfinite().all()
    assert step.bank.masks.isfinite().all()


@pytest.mark.parametrize(("emptied", "left"), [("each_epoch", 7), ("once", 13)])
def test_the_bank_lives_for_an_epoch_or_for_the_training(emptied: str, left: int) -> None:
    step = make_step(row(threshold=0.0, emptied=emptied))
    run(step, 0, 0.5)
    assert len(step.bank) == 10
    run(step, 1, 0.5)
    assert len(step.bank) == 13
    run(step, 2, 0.75, size=7)
    assert len(step.bank) == left


def test_a_last_smaller_batch_needs_only_as_many_contexts() -> None:
    step = make_step(row(threshold=0.0))
    step.collect(batches(0, 4)[0])
    draws = generator(0, "draws")
    assert step.balanced_loss(batches(0, 5)[1], at(0.5), draws).requires_grad is False
    assert step.balanced_loss(batches(0, 4)[1], at(0.5), draws).requires_grad is True
    assert step.balanced_loss(batches(0, 1)[1], at(0.5), draws).requires_grad is True


def test_without_contexts_nothing_is_drawn() -> None:
    draws = generator(0, "draws")
    make_step(row(threshold=1.0))(*batches(0, 10), progress=at(0.5), generator=draws)
    assert draws.get_state().equal(generator(0, "draws").get_state())


def test_the_second_classifier_is_named_by_the_first() -> None:
    weights = [tiny.make_network(seed).classifier.weight for seed in (0, 0, 1)]
    before = torch.get_rng_state()
    first, again, other = (second_classifier(weight) for weight in weights)
    assert torch.get_rng_state().equal(before)
    assert first.weight.equal(again.weight)
    assert not first.weight.equal(other.weight)
    assert not first.weight.equal(weights[0])


def test_under_autocast_gradients_reach_everything_and_masks_are_float32() -> None:
    network = tiny.make_network().train()
    objective = Objective(CrossEntropy(), None, torch.tensor(tiny.COUNTS))
    step = row(threshold=0.0).step_for(network, objective)
    assert isinstance(step, CSAStep)
    uniform, balanced = (Batch(images.float(), labels) for images, labels in batches(0, 10))
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(uniform, balanced, progress=at(0.5), generator=generator(0, "draws"))
    assert loss.dtype == torch.float32
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(step.parameters())))
    assert len(step.bank) == 10
    masks = step.bank.masks[:10]
    assert not masks.equal(masks.bfloat16().float())


def test_what_it_remembers_has_one_shape_and_the_network_none_of_it(tiny_network: Network) -> None:
    keys = list(tiny_network.state_dict())
    step = make_step(row())
    shapes = {name: value.shape for name, value in step.state_dict().items()}
    for index, (progress, size) in enumerate(STEPS):
        run(step, index, progress, size)
    assert {name: value.shape for name, value in step.state_dict().items()} == shapes
    assert list(step.network.state_dict()) == keys
    assert {name for name in shapes if not name.startswith(("network.", "objective."))} == {
        "balanced.weight",
        "balanced.bias",
        "bank.images",
        "bank.masks",
        "bank.pushed",
        "seen",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"mixing": 1.5},
        {"mixing": "half"},
        {"mixing": -0.1},
        {"volume": 0},
        {"threshold": 1.1},
        {"start": -0.1},
        {"mixup": True},
        {"mixup": {"alpha": 0.0, "until": 1.0}},
        {"emptied": "never"},
    ],
    ids=repr,
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        row(**wrong)


def test_its_row_names_every_key() -> None:
    learner: Any = TypeAdapter(Learner)
    assert learner.validate_python({"name": "csa", **ROW}) == row()
    for key in ROW:
        with pytest.raises(ValidationError, match=key):
            learner.validate_python({"name": "csa", **{k: v for k, v in ROW.items() if k != key}})


def test_says_what_it_needs_of_its_row() -> None:
    assert CSA.batches == 2
    assert CSA.needs_classifier == "linear"
