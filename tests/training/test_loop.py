"""The loop: schedules as published, the same bits every time, and a killed run that ends as if nothing had happened."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import tiny
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network
from longtail.seeding import generator, seeded
from longtail.spec import InputError
from longtail.training.loop import History, Run, Step, fit
from longtail.training.objective import Objective, Reweighting
from longtail.training.plans import ConstantSchedule, CosineSchedule, Optimisation, Plan, Schedule, StepSchedule

CPU = torch.device("cpu")
LDAM_STEPS = StepSchedule(milestones=(0.8, 0.9), gamma=0.01)


class Drawn(NamedTuple):
    """A batch."""

    images: Tensor
    labels: Tensor


class Shuffled:
    """Batches of the tiny split whose order depends on the seed, the epoch, and on what it remembers of the past."""

    def __init__(self, seed: int, batch_size: int = 16, dtype: torch.dtype = torch.uint8) -> None:
        self.data, self.seed, self.batch_size, self.dtype = tiny.make_split().train, seed, batch_size, dtype
        self.past = torch.zeros(())

    def epoch(self, epoch: int) -> Iterator[tuple[Drawn]]:
        """Yield 43 images in a new order."""
        assert isinstance(self.data.images, Tensor)
        order = torch.randperm(43, generator=generator(self.seed, "order", epoch, int(self.past)))
        for index in torch.split(order, self.batch_size):
            yield (Drawn(self.data.images[index].to(self.dtype), self.data.labels[index]),)
        self.past = self.past + 3 + epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        return {"past": self.past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the memory."""
        self.past = state["past"]


class NoisyStep(Step):
    """A step with everything that a resume could forget: buffers, dropout, draws of its own, deferred weights."""

    seen: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.network = tiny.make_network(seed)
        self.objective = Objective(
            GradualBalanced(form="convex", s=1, c=2),
            Reweighting(beta=0.99, start=0.5, divisor="weights"),
            torch.tensor(tiny.COUNTS),
        )
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch: Drawn, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the objective on noisy images."""
        noise = torch.randn(batch.images.shape, generator=generator)
        self.seen += len(batch.labels)
        logits = self.network.classifier(self.dropout(self.network.features(batch.images + 0.001 * self.seen * noise)))
        value: Tensor = self.objective(logits, batch.labels, progress)
        return value


class Quiet(Step):
    """Cross entropy, and in which precision the network multiplied."""

    multiplied: torch.dtype

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.objective = network, Objective(CrossEntropy(), None, torch.tensor(tiny.COUNTS))

    def forward(self, batch: Drawn, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the objective of the network's logits."""
        logits = self.network(batch.images)
        self.multiplied = logits.dtype
        value: Tensor = self.objective(logits, batch.labels, progress)
        return value


class Recorder(Step):
    """A step whose loss is the sum of two weights, and which writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[tuple[Drawn, ...], float, Tensor, bool]] = []

    def forward(self, *batches: Drawn, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return a loss whose gradient is 1 for each weight."""
        assert progress.shape == ()
        self.calls.append((batches, float(progress), torch.rand(2, generator=generator), self.training))
        return self.first + self.second


def plan(epochs: int = 4, **changes: Any) -> Optimisation:
    row = {"batch_size": 16, "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "warmup": 1}
    return Optimisation.model_validate({"epochs": epochs, "schedule": {"name": "cosine"}, **row, **changes})


def bare(epochs: int, lr: float, **changes: Any) -> Optimisation:
    """Plan gradient descent without anything."""
    row = {"momentum": 0, "nesterov": False, "weight_decay": 0, "warmup": 0, "schedule": {"name": "constant"}}
    return plan(epochs, lr=lr, **{**row, **changes})


def run(seed: int = 0, checkpoint: Path | None = None, **more: Any) -> Run:
    return Run(name=f"train@tiny seed {seed}", seed=seed, device=CPU, checkpoint=checkpoint, **more)


def bits(step: nn.Module) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in step.state_dict().items()}


# --- the learning rate --------------------------------------------------------------------------------------------


def published_step_rate(epoch: int) -> float:
    """adjust_learning_rate of the LDAM repository (200 epochs, lr 0.1), whose epochs are counted from 0."""
    if epoch < 5:
        return 0.1 * (epoch + 1) / 5
    if epoch < 160:
        return 0.1
    return 0.1 * 0.01 if epoch < 180 else 0.1 * 0.0001


def test_step_schedule_is_the_published_one() -> None:
    ldam = plan(200, lr=0.1, warmup=5, schedule=LDAM_STEPS)
    for epoch in range(200):
        assert ldam.lr_at(epoch) == pytest.approx(published_step_rate(epoch), rel=1e-12), f"epoch {epoch}"
    known = {0: 0.02, 4: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5}
    assert {epoch: ldam.lr_at(epoch) for epoch in known} == pytest.approx(known)


@pytest.mark.parametrize(("epochs", "drops"), [(100, (80, 90)), (300, (240, 270)), (7, (6, 7)), (2, (2, 2))])
def test_milestones_are_shares_of_any_training(epochs: int, drops: tuple[int, int]) -> None:
    rates = [plan(epochs, lr=1, warmup=0, schedule=LDAM_STEPS).lr_at(epoch) for epoch in range(epochs)]
    assert rates == pytest.approx([1e-4 if e >= drops[1] else 1e-2 if e >= drops[0] else 1 for e in range(epochs)])


@pytest.mark.parametrize(("epochs", "warmup"), [(200, 5), (90, 0), (10, 3)])
def test_cosine_schedule_is_torchs_after_the_warmup(epochs: int, warmup: int) -> None:
    cosine = plan(epochs, lr=0.1, warmup=warmup, schedule=CosineSchedule())
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs - warmup)
    for epoch in range(epochs):
        if epoch < warmup:
            assert cosine.lr_at(epoch) == pytest.approx(0.1 * (epoch + 1) / warmup)
            continue
        assert cosine.lr_at(epoch) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@given(st.integers(1, 400), st.integers(0, 30), st.sampled_from([CosineSchedule(), LDAM_STEPS, ConstantSchedule()]))
def test_every_epoch_has_a_rate_that_rises_to_the_base_and_never_again(
    epochs: int, warmup: int, schedule: Schedule
) -> None:
    some = plan(epochs, lr=0.1, warmup=warmup, schedule=schedule)
    rates = torch.tensor([some.lr_at(epoch) for epoch in range(epochs)], dtype=torch.float64)
    assert (rates > 0).all()
    assert (rates <= 0.1 + 1e-12).all()
    assert (rates[:warmup].diff() > 0).all()
    assert (rates[warmup:].diff() <= 1e-12).all()


def test_a_warmup_longer_than_the_training_is_its_beginning() -> None:
    """A two-epoch smoke run reads the row of a long one."""
    short = plan(2, lr=0.1, warmup=5)
    assert [short.lr_at(0), short.lr_at(1)] == pytest.approx([0.02, 0.04])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"momentum": 0}, "nesterov is true, but momentum is 0; set momentum above 0, or nesterov: false"),
        ({"momentum": 1}, "less than 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"lr": "-1e-3"}, "greater than 0"),
        ({"schedule": {"name": "step", "milestones": [160, 180], "gamma": 0.1}}, "less than 1"),
        ({"schedule": {"name": "linear"}}, "'cosine', 'step', 'constant'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        plan(**changes)


@pytest.mark.parametrize(("written", "read"), [("on", "on"), (True, "on"), (False, "off"), ("auto", "auto")])
def test_compile_on_and_off_may_be_written_without_quotes(written: Any, read: str) -> None:
    """PyYAML reads on as true."""
    augmentation = {"crop": "none", "pad": 0, "flip": False, "jitter": 0, "policy": "none", "cutout": 0}
    row = {**plan().model_dump(), "augmentation": augmentation, "precision": "auto", "validate_every": 0}
    assert Plan.model_validate({**row, "compile": written}).compile == read


def test_schedules_are_chosen_by_name() -> None:
    row = {"name": "step", "milestones": ["0.8", 0.9], "gamma": "1e-2"}
    assert TypeAdapter(Schedule).validate_python(row) == LDAM_STEPS


# --- what a step is given -----------------------------------------------------------------------------------------


def test_progress_is_the_share_of_the_epochs_done() -> None:
    step = Recorder()
    fit(step, Shuffled(0), bare(5, lr=0.1), run())
    assert [progress for _, progress, _, _ in step.calls] == [epoch / 5 for epoch in range(5) for _ in range(3)]


def test_byte_images_become_numbers_from_0_to_1() -> None:
    step, batches = Recorder(), Shuffled(0)
    fit(step, batches, bare(1, lr=0.1), run())
    images = torch.cat([batch.images for (batch,), *_ in step.calls])
    labels = torch.cat([batch.labels for (batch,), *_ in step.calls])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    order = torch.randperm(43, generator=generator(0, "order", 0, 0))
    assert isinstance(batches.data.images, Tensor)
    assert images.equal(batches.data.images[order] / 255)
    assert labels.equal(batches.data.labels[order])


def test_what_is_not_bytes_stays_as_it_is() -> None:
    step = Recorder()
    fit(step, Shuffled(0, dtype=torch.float32), bare(1, lr=0.1), run())
    (batch,), *_ = step.calls[0]
    assert batch.images.max() > 100
    assert isinstance(batch, Drawn)


def test_the_last_batch_may_be_smaller() -> None:
    step = Recorder()
    fit(step, Shuffled(0), bare(1, lr=0.1), run())
    assert [len(batch.labels) for (batch,), *_ in step.calls] == [16, 16, 11]


class Pairs(Shuffled):
    """Two samplers."""

    def epoch(self, epoch: int) -> Iterator[Any]:
        """Yield each batch twice."""
        return ((batch, batch) for (batch,) in super().epoch(epoch))


def test_a_step_is_given_one_batch_per_sampler() -> None:
    step = Recorder()
    fit(step, Pairs(0), bare(1, lr=0.1), run())
    assert [len(batches) for batches, *_ in step.calls] == [2, 2, 2]


def test_draws_differ_between_steps_epochs_and_seeds_and_repeat() -> None:
    first, again, other = Recorder(), Recorder(), Recorder()
    for step, seed in ((first, 0), (again, 0), (other, 1)):
        fit(step, Shuffled(0), bare(3, lr=0.1), run(seed))
    draws = [[tuple(draw.tolist()) for _, _, draw, _ in step.calls] for step in (first, again, other)]
    assert draws[0] == draws[1]
    assert len(set(draws[0] + draws[2])) == 18


def test_a_step_trains_in_train_mode_and_is_evaluated_and_left_in_eval_mode() -> None:
    step, modes = Recorder(), []

    def evaluate(epoch: int) -> History:
        modes.append((epoch, step.training))
        step.train()  # whatever an evaluation leaves behind
        return {}

    fit(step, Shuffled(0), bare(2, lr=0.1), run(), evaluate)
    assert modes == [(0, False), (1, False)]
    assert all(training for *_, training in step.calls)
    assert not step.training


# --- what the optimiser does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CosineSchedule(), LDAM_STEPS, ConstantSchedule()], ids=lambda s: s.name)
def test_each_epoch_steps_by_its_rate(schedule: Schedule) -> None:
    step, some = Recorder(), bare(5, lr=0.1, warmup=2, schedule=schedule)
    history = fit(step, Shuffled(0), some, run())
    expected = -sum(3 * some.lr_at(epoch) for epoch in range(5))
    assert float(step.first.detach()) == pytest.approx(expected, rel=1e-5)
    assert [row["lr"] for row in history] == [some.lr_at(epoch) for epoch in range(5)]


class Grouped(Recorder):
    """Its second weight learns a tenth as fast."""

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups."""
        return [{"params": [self.first], "lr_factor": 1.0}, {"params": [self.second], "lr_factor": 0.1}]


def test_groups_have_their_factor_of_the_rate(tmp_path: Path) -> None:
    step = Grouped()
    fit(step, Shuffled(0), bare(4, lr=0.1), run(checkpoint=tmp_path / "seed_0.pt"))
    assert float(step.first.detach()) == pytest.approx(-4 * 3 * 0.1, rel=1e-5)
    assert float(step.second.detach()) == pytest.approx(-4 * 3 * 0.01, rel=1e-5)


@pytest.mark.parametrize(("nesterov", "momentum", "decay"), [(True, 0.9, 0.01), (False, 0.9, 0.01), (False, 0.0, 0.1)])
def test_momentum_and_weight_decay_are_those_of_the_plan(nesterov: bool, momentum: float, decay: float) -> None:
    """Sutskever et al., ICML 2013, as torch writes it: v = m v + g; w -= lr (g + m v) or lr v."""
    step = Recorder()
    fit(step, Shuffled(0), bare(3, lr=0.1, nesterov=nesterov, momentum=momentum, weight_decay=decay), run())
    w, v = 0.0, 0.0
    for _ in range(3 * 3):
        g = 1 + decay * w
        v = momentum * v + g
        w -= 0.1 * (g + momentum * v if nesterov else v)
    assert float(step.first.detach()) == pytest.approx(w, rel=1e-5)


def test_frozen_parameters_do_not_drift() -> None:
    step = NoisyStep()
    step.network.stages[0].requires_grad_(False)
    before = [parameter.clone() for parameter in step.network.stages[0].parameters()]
    classifier = step.network.classifier.weight.clone()
    fit(step, Shuffled(0), plan(2, weight_decay=0.1), run())
    pairs = zip(before, step.network.stages[0].parameters(), strict=True)
    assert all(old.equal(new) for old, new in pairs)
    assert not step.network.classifier.weight.equal(classifier)


class HalfTime(Recorder):
    """Uses its second weight in the first half only."""

    def forward(self, *batches: Drawn, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return a loss that no longer knows the second weight."""
        both = super().forward(*batches, progress=progress, generator=generator)
        return both if float(progress) < 0.5 else self.first * 1.0


def test_a_weight_that_the_loss_forgets_stays_despite_momentum_and_decay() -> None:
    """RSG freezes a module when generation starts."""
    step, weights = HalfTime(), list[float]()

    def evaluate(epoch: int) -> History:
        weights.append(float(step.second.detach()))
        return {}

    fit(step, Shuffled(0), plan(6), run(), evaluate)
    assert len(set(weights[:3])) == 3
    assert set(weights[3:]) == {weights[2]}


# --- the history --------------------------------------------------------------------------------------------------


def test_a_row_has_epoch_mean_loss_rate_and_what_was_evaluated() -> None:
    rows: list[History] = []
    step, some = Recorder(), bare(2, lr=0.5)
    history = fit(step, Shuffled(0), some, run(log=rows.append), lambda epoch: {"beta": [0.1 * epoch, 0.2]})
    assert rows == history
    # The loss falls by 2 lr a step, from 0; a row holds the mean over the three steps of its epoch.
    assert rows == [
        {"epoch": 0, "loss": pytest.approx(-1.0), "lr": 0.5, "beta": [0.0, 0.2]},
        {"epoch": 1, "loss": pytest.approx(-4.0), "lr": 0.5, "beta": [0.1, 0.2]},
    ]


def test_training_learns() -> None:
    history = fit(Quiet(tiny.make_network()), Shuffled(0), plan(8), run())
    losses = [row["loss"] for row in history]
    assert losses[-1] < losses[0] / 2  # type: ignore[operator]


# --- repeatable, and resumed --------------------------------------------------------------------------------------


def train(seed: int, checkpoint: Path | None = None, epochs: int = 4, **more: Any) -> tuple[NoisyStep, list[History]]:
    """Train as a fresh process would: nothing but the arguments decides."""
    torch.manual_seed(torch.seed())
    step, evaluate = NoisyStep(), more.pop("evaluate", None)
    return step, fit(step, Shuffled(seed), plan(epochs), run(seed, checkpoint, **more), evaluate)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[dict[str, bytes], list[History]]:
    """The bits and the history of a run that nobody kills."""
    step, history = train(0, evaluate=lambda epoch: {"val_accuracy": epoch / 7})
    return bits(step), history


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    (first, rows), (again, rows_again), (other, _) = train(0), train(0), train(1)
    assert bits(first) == bits(again)
    assert rows == rows_again
    assert all(a != b for (name, a), b in zip(bits(first).items(), bits(other).values(), strict=True) if "conv" in name)
    assert bits(first)["network.classifier.weight"] != bits(other)["network.classifier.weight"]


def test_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    assert bits(train(0, tmp_path / "seed_0.pt")[0]) == bits(train(0)[0])


def test_nobody_elses_randomness_is_touched() -> None:
    before = torch.get_rng_state()
    fit(NoisyStep(), Shuffled(0), plan(2), run())
    assert torch.get_rng_state().equal(before)


class Killed(BaseException):
    """Like KeyboardInterrupt: nothing in the loop may catch it."""


def dies_at(last: int) -> Callable[[Any], History]:
    def maybe_die(what: Any) -> History:
        if what == last or (isinstance(what, dict) and what["epoch"] == last):
            raise Killed
        return {"val_accuracy": what / 7} if isinstance(what, int) else {}

    return maybe_die


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("moment", ["evaluate", "log"])
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(
    epoch: int, moment: str, tmp_path: Path, uninterrupted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoints" / "seed_0.pt"
    healthy = dies_at(-1)
    with pytest.raises(Killed):
        train(0, checkpoint, 4, **{"evaluate": healthy, moment: dies_at(epoch)})
    capsys.readouterr()
    logged: list[History] = []
    step, history = train(0, checkpoint, evaluate=healthy, log=logged.append)
    kept = epoch if moment == "evaluate" else epoch + 1  # an epoch that was logged is never trained again
    assert (bits(step), history) == uninterrupted
    assert logged == history[kept:]
    resumed = f"train@tiny seed 0: resumed at epoch {kept}\n" in capsys.readouterr().out
    assert resumed == (kept > 0)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path, uninterrupted: Any) -> None:
    checkpoint = tmp_path / "seed_0.pt"
    for epoch in range(4):
        with pytest.raises(Killed):
            train(0, checkpoint, evaluate=dies_at(-1), log=dies_at(epoch))
    step, history = train(0, checkpoint, evaluate=dies_at(-1))
    assert (bits(step), history) == uninterrupted


def test_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    """The stage may have been killed while it trained a later seed."""
    first, history = train(0, tmp_path / "seed_0.pt")
    logged: list[History] = []
    again, same_history = train(0, tmp_path / "seed_0.pt", log=logged.append)
    assert bits(again) == bits(first)
    assert same_history == history
    assert logged == []
    assert not again.training


def test_a_resumed_run_uses_as_many_threads_as_before(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        train(0, tmp_path / "seed_0.pt", epochs=1)
        torch.set_num_threads(threads)
        train(0, tmp_path / "seed_0.pt", epochs=2)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


class Unwritable(Shuffled):
    """Batches whose state cannot be written from its second epoch on: the disk is full, say."""

    def state_dict(self) -> dict[str, Any]:
        """Return something that breaks off while it is written."""
        late: dict[str, Any] = {"broken": lambda: None} if self.past > 3 else {}
        return {**super().state_dict(), **late}


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "seed_0.pt"
    with pytest.raises(Exception, match="pickle"):
        fit(NoisyStep(), Unwritable(0), plan(4), run(checkpoint=checkpoint))
    state = torch.load(checkpoint, weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [0]
    step, history = train(0, checkpoint)
    assert bits(step) == bits(train(0)[0])
    assert len(history) == 4


def test_without_a_checkpoint_no_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(0, epochs=1)
    assert list(tmp_path.iterdir()) == []


# --- numbers that are none ----------------------------------------------------------------------------------------


class Explodes(Recorder):
    """In the third epoch's last step its loss becomes what it is told, and the gradient of a weight infinite."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *batches: Drawn, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return what breaks after eight steps."""
        value = super().forward(*batches, progress=progress, generator=generator)
        return value if len(self.calls) < 9 else self.loss + (self.first - self.first.detach()).sqrt()


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (float("nan"), "the loss became nan"),
        (float("inf"), "the loss became inf"),
        (1.0, "the weights are no longer finite numbers"),
    ],
)
def test_what_is_no_number_stops_the_run_and_is_not_kept(loss: float, what: str, tmp_path: Path) -> None:
    checkpoint, logged = tmp_path / "seed_0.pt", list[History]()
    sentence = rf"^train@tiny seed 0: {what} in epoch 2\. Lower the learning rate .*lr: 0\.1.* its warmup \(0\)\.$"
    with pytest.raises(InputError, match=sentence):
        fit(Explodes(loss), Shuffled(0), bare(3, lr=0.1), run(checkpoint=checkpoint, log=logged.append))
    assert [row["epoch"] for row in logged] == [0, 1]
    assert [row["epoch"] for row in torch.load(checkpoint, weights_only=True)["history"]] == [0, 1]


def test_a_rate_far_too_high_is_told_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"became (nan|inf)|no longer finite"):
        fit(NoisyStep(), Shuffled(0), plan(30, lr=1e30, warmup=0), run())


# --- precision and compilation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_precision_is_that_of_the_products_while_weights_stay_single(precision: torch.dtype) -> None:
    step = Quiet(tiny.make_network())
    history = fit(step, Shuffled(0), plan(8), run(precision=precision))
    assert step.multiplied == precision
    assert {parameter.dtype for parameter in step.parameters()} == {torch.float32}
    assert history[-1]["loss"] < history[0]["loss"]  # type: ignore[operator]


def train_compiled(network: Network, **how: Any) -> Quiet:
    torch.compiler.reset()
    network.to(memory_format=torch.channels_last)
    for stage in network.stages:
        stage.compile(dynamic=False, **how)
    step = Quiet(network)
    fit(step, Shuffled(0), plan(3), run(compiled=True))
    return step


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_smaller_last_batch_is_not_compiled_for() -> None:
    counter = CompileCounter()  # compiles nothing, but counts
    train_compiled(tiny.make_network(), backend=counter)
    assert counter.frame_count == 2  # one graph per stage


def smallest_network() -> Network:
    """Build a network whose kernels compile in seconds."""
    with seeded(0, "smallest"):
        return Network([nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())], LinearClassifier(4, 5))


@pytest.mark.skipif(
    not (shutil.which("g++") and (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()),
    reason="no C++ compiler with Python's headers",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_compiled_training_repeats_itself_and_keeps_the_names() -> None:
    first, again = train_compiled(smallest_network()), train_compiled(smallest_network())
    assert bits(first) == bits(again)
    assert set(bits(first)) == set(Quiet(smallest_network()).state_dict())
