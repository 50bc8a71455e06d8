"""THE loop: one `fit` for both stages. It owns speed, resume and determinism, and nothing of any method."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from longtail import distributed
from longtail.progress import EpochProgress
from longtail.seeding import generator, seeded
from longtail.spec import InputError
from longtail.training.plans import Optimisation

History = dict[str, float | list[float]]


class Batches(Protocol):
    """Where a loop's batches come from; every draw inside derives from a seed and the epoch."""

    def epoch(self, epoch: int) -> Iterable[tuple[Any, ...]]:
        """Yield the steps of an epoch (0-based): one batch (a NamedTuple of tensors) per sampler."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart beyond the seed (GLAG's beta)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned, on the CPU."""
        ...


class Step(nn.Module):
    """What a loop trains: `step(*batches, progress=, generator=)` returns the scalar to minimise.

    Its state_dict holds everything that a step leaves to later ones, and its draws come from the given generator alone.
    """

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups that learn, each with its `lr_factor` of the plan's learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_factor": 1.0}]


@dataclass(frozen=True)
class Run:
    """Where and how a fit runs: never what it computes.

    Args:
        name: what the progress line calls it, such as `train@ce seed 0`.
        seed: the training seed; every draw derives from it.
        checkpoint: file that holds the last finished epoch, or None to keep none.
        log: called with each new row of the history.
        precision: dtype of autocast; float32 is none.
        compiled: whether the network was compiled for batches of exactly the plan's size.
    """

    name: str
    seed: int
    device: torch.device
    checkpoint: Path | None = None
    log: Callable[[History], None] = lambda row: None
    precision: torch.dtype = torch.float32
    compiled: bool = False

    def with_log(self, log: Callable[[History], None]) -> "Run":
        """Return the same run, logging elsewhere."""
        return replace(self, log=log)


def fit(
    step: Step,
    batches: Batches,
    plan: Optimisation,
    run: Run,
    evaluate: Callable[[int], History] | None = None,
) -> list[History]:
    """Train `step` for the plan's epochs, continuing from the run's checkpoint if there is one.

    With several devices (see `longtail.distributed`) every process calls it with the same arguments and its share of
    the batches. The step then returns its share of the loss of one objective, which depends on every weight. The first
    process alone evaluates, saves and logs; the others' histories lack what `evaluate` returns.

    Args:
        step: see `Step`.
        batches: see `Batches`; they are moved to the device here, uint8 images become float32 in [0, 1].
        evaluate: called with each finished epoch, in eval mode; its numbers join the history.

    Returns:
        One row per epoch: epoch, loss (mean over steps, nats), lr, and what `evaluate` returned.

    Raises:
        InputError: if the loss or a weight stops being a finite number; the checkpoint then stays that of the last
            good epoch.
    """
    step.to(run.device)
    optimizer = torch.optim.SGD(
        [{**group, "lr": plan.lr * group["lr_factor"]} for group in step.groups()],
        plan.lr,
        plan.momentum,
        nesterov=plan.nesterov,
        weight_decay=plan.weight_decay,
    )
    history = _resume(step, optimizer, batches, run)
    first = distributed.rank() == 0
    with EpochProgress(run.name, len(history), plan.epochs) as progress:
        for epoch in range(len(history), plan.epochs):
            loss, rows = _epoch(step, optimizer, batches, plan, run, epoch)
            step.eval()
            row: History = {
                "epoch": epoch,
                "loss": loss,
                "lr": plan.lr_at(epoch),
                **(evaluate(epoch) if evaluate and first else {}),
            }
            history.append(row)
            if first:
                _save(step, optimizer, batches, run, history)  # before the log: what was seen in a log is never lost
                run.log(row)
            progress.advance(epoch, rows, loss)
    step.eval()
    return history


def _epoch(
    step: Step, optimizer: torch.optim.Optimizer, batches: Batches, plan: Optimisation, run: Run, epoch: int
) -> tuple[float, int]:
    step.train()
    for group in optimizer.param_groups:
        group["lr"] = plan.lr_at(epoch) * group["lr_factor"]
    t = torch.tensor(epoch / plan.epochs, dtype=torch.float64, device=run.device)
    draws = generator(run.seed, "step", epoch)
    weights = [parameter for parameter in step.parameters() if parameter.requires_grad]
    total, steps, rows = torch.zeros((), device=run.device), 0, 0
    whole = distributed.share_size(plan.batch_size)
    autocast = torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32)
    with seeded(run.seed, "layers", epoch):  # dropout and its like draw from torch's global generator
        for batch in batches.epoch(epoch):
            moved = tuple(_to_device(part, run.device) for part in batch)
            size = len(moved[0][0])
            # One graph for one shape: a last, shorter batch runs eagerly instead of being compiled for.
            short = run.compiled and size != whole
            with torch.compiler.set_stance("force_eager") if short else nullcontext(), autocast:
                loss = step(*moved, progress=t, generator=draws) if size else distributed.no_loss(weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            distributed.add_gradients(weights)
            optimizer.step()
            total += loss.detach()
            steps, rows = steps + 1, rows + size
    mean = float(distributed.summed(total) / max(steps, 1))
    _check_finite(step, mean, plan, run, epoch)
    return mean, int(distributed.summed(torch.tensor(rows)))


def _check_finite(step: Step, loss: float, plan: Optimisation, run: Run, epoch: int) -> None:
    # The weights too: the last step of an epoch may spoil them, and after the last epoch no loss would show it.
    finite_weights = all(bool(parameter.isfinite().all()) for parameter in step.parameters())
    if not math.isfinite(loss) or not finite_weights:
        what = "weights are no longer finite numbers" if math.isfinite(loss) else f"loss became {loss}"
        raise InputError(
            f"{run.name}: the {what} in epoch {epoch}. "
            f"Lower the learning rate of its plan (lr: {plan.lr:g}) or lengthen its warmup ({plan.warmup})."
        )


def _to_device(batch: Any, device: torch.device) -> Any:
    return type(batch)(*(_ready(tensor.to(device, non_blocking=True)) for tensor in batch))


def _ready(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint8:
        tensor = tensor.float().div_(255)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _save(step: Step, optimizer: torch.optim.Optimizer, batches: Batches, run: Run, history: list[History]) -> None:
    if run.checkpoint is None:
        return
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step.state_dict(),
        "optimizer": optimizer.state_dict(),
        "batches": batches.state_dict(),
        "history": history,
        "threads": torch.get_num_threads(),
        "devices": distributed.count(),
    }
    temporary = run.checkpoint.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(run.checkpoint)


def _resume(step: Step, optimizer: torch.optim.Optimizer, batches: Batches, run: Run) -> list[History]:
    if run.checkpoint is None or not run.checkpoint.exists():
        return []
    state = torch.load(run.checkpoint, map_location="cpu", weights_only=True)  # step and optimizer copy to the device
    step.load_state_dict(state["step"])
    optimizer.load_state_dict(state["optimizer"])
    batches.load_state_dict(state["batches"])
    history: list[History] = state["history"]
    before, now = state["devices"], distributed.count()
    if before == now:
        torch.set_num_threads(state["threads"])  # sums in another order are other bits
    changed = "" if before == now else f"; {before} device(s) trained until here, {now} will from now on"
    print(f"{run.name}: resumed at epoch {len(history)}{changed}", flush=True)
    return history
