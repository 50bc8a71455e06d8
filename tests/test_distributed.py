"""Two processes train as one, to rounding: real ones, started by torchrun, on the CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import together
from longtail import distributed
from longtail.loading.batches import Batch
from longtail.loading.reading import read, read_share
from longtail.training.loop import History, Step
from together import CASES, Case, train

SUPPORT = Path(__file__).parent / "support"
ROUNDING = 2e-6  # of weights of about 1 after four epochs in float32
WITHOUT_BATCH_NORM = [name for name, case in CASES.items() if not case.normalised]


class Stop(BaseException):
    """Ends a training: nothing may catch it."""


def stops_after(epoch: int) -> Any:
    def log(row: History) -> None:
        if row["epoch"] == epoch:
            raise Stop

    return log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have saved what they had; they continued what one process had begun."""
    made = tmp_path_factory.mktemp("together")
    with pytest.raises(Stop):
        train(CASES["weighted"], made / "begun_by_one.pt", log=stops_after(1))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*command, str(SUPPORT / "together.py"), str(made)], capture_output=True, text=True, timeout=200
    )
    assert finished.returncode == 0, finished.stderr
    return made


@pytest.fixture(scope="module")
def saved(folder: Path) -> list[Any]:
    """What each process had: results, seen, logged."""
    return [torch.load(folder / f"{rank}.saved", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[dict[str, Tensor], list[History]]]:
    """The cases as one process trains them."""
    return {name: train(case) for name, case in CASES.items()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest difference of any weight or buffer."""
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def losses(history: list[History]) -> list[Any]:
    return [row["loss"] for row in history]


# --- as one, without BatchNorm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_two_processes_train_the_weights_of_one(name: str, saved: list[Any], alone: Any) -> None:
    weights, history = alone[name]
    together_weights, together_history = saved[0]["results"][name]
    assert distance(together_weights, weights) < ROUNDING
    assert losses(together_history) == pytest.approx(losses(history), rel=1e-5)
    assert [row["val_accuracy"] for row in together_history] == [row["val_accuracy"] for row in history]


class MeanOfMeans(Step):
    """What averaging the shares' own objectives would train: the mistake to tell from rounding."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.network, self.objective = together.network(case), together.objective(case)

    def forward(self, batch: Batch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean over shares of their weighted means."""
        shares = [(batch.images[rank::2], batch.labels[rank::2]) for rank in range(2)]
        values = [self.objective(self.network(x), y, progress) for x, y in shares if len(y)]
        return torch.stack(values).mean()


def test_rounding_is_far_less_than_what_a_wrong_mean_would_change(alone: Any) -> None:
    wrong, _ = train(CASES["weighted"], step=MeanOfMeans(CASES["weighted"]))
    assert distance(wrong, alone["weighted"][0]) > 1000 * ROUNDING


@pytest.mark.parametrize("name", CASES)
def test_both_processes_have_the_same_weights_bit_by_bit(name: str, saved: list[Any]) -> None:
    (first, _), (second, _) = (process["results"][name] for process in saved)
    same = {key for key in first if first[key].equal(second[key])}
    assert {key for key in first if "running" not in key} <= same


@pytest.mark.parametrize("name", CASES)
def test_the_shares_of_every_batch_are_the_batch(name: str, saved: list[Any]) -> None:
    expected = together.epoch_of(CASES[name])
    first, second = (process["seen"][name] for process in saved)
    assert len(first) == len(second) == len(expected)
    for one, two, batch in zip(first, second, expected, strict=True):
        assert abs(len(one[1]) - len(two[1])) <= 1
        for place, share in enumerate((one, two)):
            rows = slice(place, None, 2)
            assert share[1].equal(batch.labels[rows])
            assert share[0].equal(batch.images[rows]) or not len(share[1])


def test_the_last_batch_of_one_row_leaves_the_second_process_none(saved: list[Any]) -> None:
    assert [len(process["seen"]["cross_entropy"][-1][1]) for process in saved] == [1, 0]


# --- only the first process tells ---------------------------------------------------------------------------------


def test_only_the_first_process_evaluates_and_logs(saved: list[Any]) -> None:
    first, second = saved
    assert first["logged"] == first["results"]["whole"][1]
    assert second["logged"] == []
    assert all("val_accuracy" not in row for row in second["results"]["whole"][1])
    assert losses(second["results"]["whole"][1]) == losses(first["logged"])


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_two_processes_continue_with_the_bits_of_an_uninterrupted_run(saved: list[Any]) -> None:
    (whole, history), (resumed, resumed_history) = (saved[0]["results"][name] for name in ("whole", "resumed"))
    assert distance(resumed, whole) == 0
    assert resumed_history == history


def test_two_processes_continue_what_one_began(saved: list[Any], alone: Any) -> None:
    weights, history = saved[0]["results"]["joined_later"]
    assert distance(weights, alone["weighted"][0]) < ROUNDING
    assert losses(history)[:2] == losses(alone["weighted"][1])[:2]


def test_one_process_continues_what_two_began_and_says_so(
    folder: Path, alone: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, _ = train(CASES["weighted"], folder / "by_one.pt")
    assert distance(weights, alone["weighted"][0]) < ROUNDING
    assert "resumed at epoch 2; 2 device(s) trained until here, 1 will from now on\n" in capsys.readouterr().out


# --- BatchNorm, for what it is ------------------------------------------------------------------------------------


class ByShares(Step):
    """One process that normalises each of two shares by itself, and keeps the statistics of the first."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.network, self.objective = together.network(case), together.objective(case)

    def forward(self, batch: Batch, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the objective of the whole batch."""
        forgotten = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        logits = self.network(batch.images[::2]), functional_call(self.network, forgotten, (batch.images[1::2],))
        labels = torch.cat([batch.labels[::2], batch.labels[1::2]])
        value: Tensor = self.objective(torch.cat(logits), labels, progress)
        return value


def test_batch_norm_normalises_each_share_and_the_first_ones_statistics_are_kept(saved: list[Any], alone: Any) -> None:
    weights, _ = saved[0]["results"]["batch_norm"]
    by_shares, _ = train(CASES["batch_norm"], step=ByShares(CASES["batch_norm"]))
    assert distance(weights, by_shares) < ROUNDING
    assert distance(weights, alone["batch_norm"][0]) > 1000 * ROUNDING  # so it is not the training of one process


# --- alone --------------------------------------------------------------------------------------------------------


def test_one_process_adds_nothing_and_waits_for_nobody() -> None:
    value = torch.tensor(0.1, requires_grad=True)
    assert distributed.summed(value) is value
    distributed.meet()
    with distributed.joined(together.CPU):
        assert (distributed.count(), distributed.rank()) == (1, 0)
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.arange(3.0)
    distributed.add_gradients([weight])
    assert weight.grad.tolist() == [0, 1, 2]


def test_one_process_has_every_row() -> None:
    assert distributed.share_of(43, 7).equal(torch.arange(43))
    assert distributed.share_size(7) == 7
    one = together.batches(CASES["weighted"])._pass(0, 0)
    pairs = zip(read((one,), 7), read_share((one,), 7), strict=True)
    assert all(whole.images.equal(share.images) for (whole,), (share,) in pairs)


def test_no_loss_is_nothing_with_gradients_of_nothing() -> None:
    weights = [nn.Parameter(torch.full((2, 3), torch.inf)), nn.Parameter(torch.ones(4))]
    loss = distributed.no_loss(weights)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert all(weight.grad is not None and weight.grad.equal(torch.zeros_like(weight)) for weight in weights)
