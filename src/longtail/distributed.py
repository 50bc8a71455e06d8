"""Several devices: what the processes of one training do together, each on a device of its own.

LONGTAIL_DEVICES=2 makes two processes of a training stage (see `longtail.stages.launch`). Each takes its share of the
rows of every batch, so that the shares together are the batch that one process would have. The objective divides by the
sum of weights over all shares and the gradients are added, so that the weights are those of one process within
rounding. Where there is one process, every function here leaves its argument as it is, bit by bit.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

# A process that is gone is noticed at once, by its closed connection; one that is slow (the first, which alone
# validates and saves, or waits for a lock) is no error. So no process gives up waiting.
PATIENCE = timedelta(days=365)
GRACE = 30.0  # seconds in which torchrun ends a process whose peer is gone


def count() -> int:
    """Return how many processes train together; 1 outside `joined`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0; the first one writes what is kept."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meet the other processes that torchrun has started, if it has; collective calls work inside the block.

    Args:
        device: this process's own; GPUs talk by NCCL, all else by gloo.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: torchrun ends the others and reports the cause


def meet() -> None:
    """Wait until all processes are here."""
    summed(torch.zeros(()))


def share_size(rows: int) -> int:
    """Return how many of a batch's rows are this process's."""
    return len(range(rank(), rows, count()))


def share_of(rows: int, batch_size: int) -> Tensor:
    """Return this process's places among `rows` that are cut into batches: every `count()`-th of each batch."""
    places = torch.arange(rows)
    return places[places % batch_size % count() == rank()]


def summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient; added in float64, equal on all of them."""
    if count() == 1:
        return value
    total = value.detach().to(torch.float64, copy=True)
    _add(total)
    return total.to(value.dtype)


def no_loss(parameters: Sequence[Tensor]) -> Tensor:
    """Return the loss of a share without rows: 0, with gradients of 0. Stands in for one call of the objective."""
    summed(parameters[0].new_zeros(()))  # the others' objective waits for the sum of weights
    return torch.cat([parameter.flatten()[:0] for parameter in parameters]).sum()


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each parameter's gradient by its sum over all processes."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters), "a share's loss must depend on every weight, or shares would not match"
    together = torch.cat([gradient.flatten() for gradient in gradients])  # one message instead of hundreds
    _add(together)
    for gradient, part in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _add(tensor: Tensor) -> None:
    try:
        dist.all_reduce(tensor)
    except RuntimeError:  # what gloo and NCCL raise where a peer is gone
        time.sleep(GRACE)  # torchrun ends this process meanwhile, and reports the one that failed first
        raise
