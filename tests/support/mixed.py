"""What the tests of learners on mixed images share: a step in float64, its oracle's network, and their comparison."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

import tiny
from longtail.learners.plain import Plain
from longtail.losses.cross_entropy import CrossEntropy
from longtail.models.network import Network
from longtail.training.objective import Objective, Reweighting

DRW = Reweighting(beta=0.99, start=0.5, divisor="weights")


def at(progress: float) -> Tensor:
    """Return a progress as `fit` passes it."""
    return torch.tensor(progress, dtype=torch.float64)


def make_objective(loss: Any = None, reweighting: Reweighting | None = None, counts: Any = tiny.COUNTS) -> Objective:
    """Return an objective for the tiny split, cross entropy where no loss is given."""
    return Objective(loss or CrossEntropy(), reweighting, torch.tensor(counts))


def make_step(spec: Any, objective: Objective | None = None, seed: int = 0) -> Any:
    """Return a learner's step in float64 and training mode, on a network with some confidence."""
    network = tiny.make_network(seed)
    with torch.no_grad():
        network.classifier.weight.mul_(2)
    return spec.step_for(network, objective or make_objective()).double().train()


def plain_step(objective: Objective | None = None) -> nn.Module:
    """Return plain learning of the same network."""
    step: nn.Module = make_step(Plain(), objective)
    return step


def copy_of(step: Any) -> Network:
    """Return the step's network for an oracle to use."""
    network: Network = deepcopy(step.network)
    return network


def agree(step: Any, ours: Tensor, network: Network, theirs: Tensor, tolerance: float = 1e-9) -> None:
    """Check that two losses, the gradients of their networks and the BatchNorm statistics are the same."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    mine = torch.autograd.grad(ours, list(step.network.parameters()))
    other = torch.autograd.grad(theirs, list(network.parameters()))
    for (name, _), a, b in zip(network.named_parameters(), mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=100 * tolerance, atol=tolerance, msg=f"the gradients of {name} differ")
    for name, value in network.named_buffers():
        torch.testing.assert_close(step.network.get_buffer(name), value, rtol=tolerance, atol=tolerance)


def differ(one: Tensor, other: Tensor) -> bool:
    """Tell whether two losses differ by more than rounding."""
    return abs(float(one.detach() - other.detach())) > 1e-6
