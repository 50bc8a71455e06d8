"""RSG against its equations in plain loops, its limits, who gets gradients, and its pitfalls."""

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import tiny
from longtail.learners import Learner
from longtail.learners.plain import Plain
from longtail.learners.rsg import RSG, RSGStep
from longtail.loading.augmentation import Augmentation
from longtail.loading.batches import Batch, ImageBatches
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.ldam import LDAM
from longtail.models.classifier import CosineClassifier
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError
from longtail.training.loop import History, Run, fit
from longtail.training.objective import Objective
from longtail.training.plans import CosineSchedule, Optimisation
from rsg_oracle import ROW, STEPS, compare, make_batch, make_step, row

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released_code": {"cm_kernel": 1, "cm_pair": "reference", "mv_layout": "reference"},
    "step_imbalance": {"head_share": 0.6, "transfer_strength": 0.01},
    "some_strength": {"transfer_strength": 0.5},
    "one_centre": {"centres": 1},
    "from_the_start": {"start": 0.0},
    "never": {"start": 1.0},
    "without_the_first_term": {"mv_terms": ["length", "contrast"]},
    "without_the_second_term": {"mv_terms": ["direction", "contrast"]},
    "without_the_third_term": {"mv_terms": ["direction", "length"]},
    "adding_to_centres": {"generation": "centre", "mv_terms": []},
    "direct_addition": {"generation": "direct", "mv_terms": []},
    "counted_from_the_first_stage": {"position": 1},
    "before_pooling": {"position": None},
    "other_weights": {"lambda_cesc": 0.3, "lambda_mv": 0.2},
    "without_cesc": {"lambda_cesc": 0.0},
    "without_mv": {"lambda_mv": 0.0},
}
BEFORE, AFTER = 0.25, 0.5
MANY_HEADS, MANY_TAILS, NO_TAILS, NO_HEADS = (5, 3, 2, 1, 0), (1, 1, 4, 2, 1), (4, 3, 0, 0, 0), (0, 0, 3, 2, 1)


def at(progress: float) -> Tensor:
    return torch.tensor(progress, dtype=torch.float64)


def run(step: RSGStep, progress: float, counts: tuple[int, ...] = MANY_HEADS) -> Tensor:
    loss: Tensor = step(make_batch(0, counts), progress=at(progress), generator=generator(0, "draws"))
    return loss


def gradients(loss: Tensor, step: RSGStep) -> dict[str, Tensor | None]:
    names, parameters = zip(*step.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def learners(loss: Tensor, step: RSGStep) -> set[str]:
    """Name the parts that get gradients other than zero."""
    found = {name for name, gradient in gradients(loss, step).items() if gradient is not None and gradient.any()}
    return {".".join(name.split(".")[: 3 if "stages" in name else 2]) for name in found}


NETWORK = {"network.stages.0", "network.stages.1", "network.classifier"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_algorithm_1(variant: str) -> None:
    compare(row(**VARIANTS[variant]))


def test_the_comparison_meets_every_case() -> None:
    seen: Counter[str] = compare(row())
    cases = {"same", "different", "left over", "more heads", "more tails", "several segments", "no heads", "no tails"}
    assert {case for case in cases if seen[case]} == cases


# --- limits -------------------------------------------------------------------------------------------------------


def test_until_the_start_the_network_learns_plainly() -> None:
    step, other = make_step(row(start=1.0)), make_step(row())
    plain, network = Plain().step_for(other.network, other.objective), other.network
    for index, (progress, counts) in enumerate(STEPS):
        batch, draws = make_batch(index, counts), generator(index, "draws")
        pairs = list(zip(step.network.parameters(), network.parameters(), strict=True))
        mine, theirs = (
            torch.autograd.grad(module(batch, progress=at(progress), generator=draws), list(weights))
            for module, weights in zip((step, plain), zip(*pairs, strict=True), strict=True)
        )
        for (one, two), a, b in zip(pairs, mine, theirs, strict=True):
            assert a.equal(b)
            with torch.no_grad():
                one.sub_(0.05 * a)
                two.sub_(0.05 * b)
    assert all(one.equal(two) for one, two in zip(step.network.buffers(), network.buffers(), strict=True))


@pytest.mark.parametrize("counts", [NO_TAILS, NO_HEADS])
def test_without_heads_or_tails_nothing_is_generated(counts: tuple[int, ...]) -> None:
    step, other = make_step(row(lambda_cesc=0.0)), make_step(row())
    loss = run(step, AFTER, counts)
    plain = Plain().step_for(other.network, other.objective)
    expected = plain(make_batch(0, counts), progress=at(AFTER), generator=generator(0, "draws"))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)  # the memory layout may differ, and with it a sum
    assert learners(loss, step) == NETWORK


@pytest.mark.parametrize(("epoch", "starts"), [(159, False), (160, True)])
def test_generation_starts_at_epoch_160_of_200(epoch: int, starts: bool) -> None:
    step = make_step(row(start=0.8))
    learn = learners(run(step, epoch / 200), step)
    assert ("rare.transformation" in learn) == starts
    assert ("rare.contrastive" in learn) == (not starts)


def test_a_boundary_can_be_counted_from_either_end() -> None:
    losses = [run(make_step(row(position=position)), AFTER) for position in (1, -1)]
    assert losses[0].equal(losses[1])


# --- who learns from what -----------------------------------------------------------------------------------------


def test_before_the_start_all_but_the_transformation_learn() -> None:
    step = make_step(row())
    assert learners(run(step, BEFORE), step) == NETWORK | {"rare.centres", "rare.contrastive"}


@pytest.mark.parametrize("counts", [MANY_HEADS, MANY_TAILS])
def test_from_the_start_on_all_but_the_contrastive_module_learn(counts: tuple[int, ...]) -> None:
    step = make_step(row())
    assert learners(run(step, AFTER, counts), step) == NETWORK | {"rare.centres", "rare.transformation"}


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
def test_the_network_learns_nothing_from_cesc_and_mv(progress: float) -> None:
    found = []
    for weight in (0.0, 10.0):
        step = make_step(row(lambda_cesc=weight, lambda_mv=weight))
        found.append(gradients(run(step, progress), step))
    for name, gradient in found[0].items():
        other = found[1][name]
        if name.startswith("network.") and gradient is not None and other is not None:
            assert gradient.equal(other), name
        elif name.startswith("network."):
            assert gradient is other is None


def test_the_centres_learn_from_cesc_alone_and_the_transformation_also_from_the_classification() -> None:
    step = make_step(row(lambda_cesc=0.0, lambda_mv=0.0))
    assert learners(run(step, AFTER), step) == NETWORK | {"rare.transformation"}
    assert learners(run(step, BEFORE), step) == NETWORK


def test_new_samples_are_tail_samples_that_send_gradients_to_the_transformation_alone() -> None:
    step, (images, labels) = make_step(row()), make_batch(0, MANY_HEADS)
    maps = step.network.maps(images, stop=-1)
    order = torch.randperm(len(labels), generator=generator(0, "draws"))
    new, rows, _ = step.generate(maps.detach(), labels, order)
    assert new.shape == (6, *maps.shape[1:])  # 8 heads and 3 tails: 2 segments of 3
    assert sorted(labels[rows].tolist()) == [2, 2, 2, 2, 3, 3]
    assert learners(new.sum(), step) == {"rare.transformation"}


class Watch:
    """The weights of a module after each epoch."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.epochs = module, list[bytes]()

    def __call__(self, epoch: int) -> History:
        self.epochs.append(b"".join(p.detach().numpy().tobytes() for p in self.module.parameters()))
        return {}


@pytest.mark.parametrize(("part", "changing"), [("contrastive", [0, 1]), ("transformation", [2, 3]), ("centres", None)])
def test_a_module_that_does_not_learn_keeps_its_bits_despite_momentum_and_weight_decay(
    part: str, changing: list[int] | None
) -> None:
    step = make_step(row()).float()
    watch = Watch(step.rare.get_submodule(part))
    watch(-1)
    still = Augmentation(crop="pad", pad=0, flip=False, jitter=0, policy="none", cutout=0)
    batches = ImageBatches(tiny.make_split().train, ("instance_balanced",), 16, still, 4, 0)
    plan = Optimisation(
        epochs=4,
        batch_size=16,
        lr=0.01,
        momentum=0.9,
        nesterov=False,
        weight_decay=0.1,
        warmup=0,
        schedule=CosineSchedule(),
    )
    fit(step, batches, plan, Run("train@rsg seed 0", 0, torch.device("cpu")), watch)
    changed = [epoch for epoch in range(4) if watch.epochs[epoch] != watch.epochs[epoch + 1]]
    assert changed == (changing or [0, 1, 2, 3])


# --- pitfalls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
@pytest.mark.parametrize(
    "counts", [(1, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 0, 0, 0, 1), (3, 0, 0, 0, 0), (0, 1, 1, 1, 0)]
)
def test_tiny_batches_work(counts: tuple[int, ...], progress: float) -> None:
    step = make_step(row())
    loss = run(step, progress, counts)
    assert loss.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(loss, step).values())


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
@pytest.mark.parametrize("variant", ["paper", "released_code"])
def test_maps_and_centres_of_zeros_give_no_nan(variant: str, progress: float) -> None:
    step = make_step(row(**VARIANTS[variant])).float()
    with torch.no_grad():
        step.network.get_parameter("stages.0.2.bias").fill_(-50.0)  # a ReLU that lets nothing through
        step.rare.centres.centres.zero_()
        for parameter in step.rare.transformation.parameters():
            parameter.zero_()
    images, labels = make_batch(0, MANY_HEADS)
    assert not step.network.maps(images.float(), stop=-1).any()
    loss = step(Batch(images.float(), labels), progress=at(progress), generator=generator(0, "draws"))
    assert loss.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(loss, step).values())


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
def test_each_step_draws_one_permutation(progress: float) -> None:
    draws, other = generator(0, "draws"), generator(0, "draws")
    make_step(row())(make_batch(0, MANY_HEADS), progress=at(progress), generator=draws)
    torch.randperm(11, generator=other)
    assert draws.get_state().equal(other.get_state())


def test_batches_are_paired_anew_whatever_their_order() -> None:
    step, batch = make_step(row()), make_batch(0, MANY_HEADS)
    losses = {float(step(batch, progress=at(AFTER), generator=generator(i, "d")).detach()) for i in range(5)}
    assert len(losses) == 5


@pytest.mark.parametrize("generation", ["transform", "direct", "centre"])
def test_under_autocast_new_samples_have_the_type_of_the_maps_and_the_loss_is_float32(generation: str) -> None:
    spec = row(generation=generation, mv_terms=row().mv_terms if generation == "transform" else ())
    step, (images, labels) = make_step(spec).float(), make_batch(0, MANY_HEADS)
    order = torch.randperm(11, generator=generator(0, "draws"))
    with torch.autocast("cpu", torch.bfloat16):
        maps = step.network.maps(images.float(), stop=-1).bfloat16()  # as a GPU's BatchNorm leaves them
        new, _, mv = step.generate(maps.detach(), labels, order)
        loss = step(Batch(images.float(), labels), progress=at(AFTER), generator=generator(0, "draws"))
    assert new.dtype == torch.bfloat16
    assert mv.dtype == loss.dtype == torch.float32
    expected = NETWORK | {"rare.centres"} | ({"rare.transformation"} if generation == "transform" else set())
    assert learners(loss, step) == expected


def test_margins_on_cosines_hold_for_new_samples_too() -> None:
    network = tiny.make_network()
    network = Network(list(network.stages), CosineClassifier(16, 5, 1.0), network.image_shape)
    objective = Objective(LDAM(max_margin=0.5, scale=30), None, torch.tensor(tiny.COUNTS))
    step = row().step_for(network, objective)
    assert isinstance(step, RSGStep)
    loss = run(step.double().train(), AFTER)
    assert learners(loss, step) == NETWORK | {"rare.centres", "rare.transformation"}


# --- what it leaves behind ----------------------------------------------------------------------------------------


def test_what_it_remembers_has_one_shape_and_the_network_none_of_it(tiny_network: Network) -> None:
    step = make_step(row())
    shapes = {name: value.shape for name, value in step.state_dict().items()}
    for index, (progress, counts) in enumerate(STEPS):
        step(make_batch(index, counts), progress=at(progress), generator=generator(index, "draws"))
    assert {name: value.shape for name, value in step.state_dict().items()} == shapes
    assert list(step.network.state_dict()) == list(tiny_network.state_dict())
    images = make_batch(0, MANY_HEADS).images
    tiny_network.double().load_state_dict(step.network.state_dict())
    assert tiny_network.eval()(images).equal(step.network.eval()(images))


def test_the_generator_is_named_by_the_networks_numbers() -> None:
    before = torch.get_rng_state()
    objective = Objective(CrossEntropy(), None, torch.tensor(tiny.COUNTS))
    steps = [row().step_for(tiny.make_network(seed), objective) for seed in (0, 0, 1)]
    assert torch.get_rng_state().equal(before)
    first, again, other = (
        b"".join(p.detach().numpy().tobytes() for n, p in step.named_parameters() if n.startswith("rare."))
        for step in steps
    )
    assert first == again
    assert first != other


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"centres": 0},
        {"head_share": 0.0},
        {"head_share": 1.0},
        {"transfer_strength": 0.0},
        {"transfer_strength": 1.1},
        {"lambda_mv": -0.1},
        {"start": 1.1},
        {"position": 0},
        {"position": "last"},
        {"cm_kernel": 2},
        {"cm_pair": "both"},
        {"mv_terms": ["angle"]},
        {"mv_terms": ["length", "length"]},
        {"generation": "direct"},
        {"generation": "centre", "mv_terms": ["contrast"]},
    ],
    ids=repr,
)
def test_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        row(**wrong)


def step_for(spec: RSG, stages: int = 2, counts: tuple[int, ...] = tiny.COUNTS) -> None:
    whole = tiny.make_network()
    network = Network(list(whole.stages)[:stages], whole.classifier, whole.image_shape)
    spec.step_for(network, Objective(CrossEntropy(), None, torch.tensor(counts)))


@pytest.mark.parametrize("position", [2, -2, 3])
def test_refuses_a_position_that_the_network_has_not(position: int) -> None:
    with pytest.raises(
        InputError, match=rf"learner.position is {position}, .* 2 stages. Choose 1 to 1, -1 to -1, or null"
    ):
        step_for(row(position=position))


def test_a_network_of_one_stage_has_only_the_place_behind_it() -> None:
    with pytest.raises(InputError, match=r"1 stage. Choose null"):
        step_for(row(position=-1), stages=1)
    step_for(row(position=None), stages=1)


@pytest.mark.parametrize(("counts", "least"), [((9, 5, 1), 0.34), ((9,), 1.0)])
def test_refuses_a_share_without_a_head_class(counts: tuple[int, ...], least: float) -> None:
    with pytest.raises(
        InputError, match=rf"learner.head_share is 0.3, .* {len(counts)} classes .* at least {least:g}, "
    ):
        step_for(row(head_share=0.3), counts=counts)
    if len(counts) > 1:
        step_for(row(head_share=least), counts=counts)


@pytest.mark.parametrize("position", [1, -1, None])
def test_says_which_stages_see_batches_of_varying_size(position: int | None) -> None:
    assert row(position=position).varies_from == position


def test_its_row_names_every_key() -> None:
    learner: Any = TypeAdapter(Learner)
    assert learner.validate_python({"name": "rsg", **ROW}) == row()
    for key in ROW:
        with pytest.raises(ValidationError, match=key):
            learner.validate_python({"name": "rsg", **{k: v for k, v in ROW.items() if k != key}})
