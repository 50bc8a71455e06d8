"""BBN against its formula in plain loops, its limits, who learns from what, and which networks it refuses."""

import re
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import forked
import tiny
from csa_oracle import batches, cross_entropy
from longtail.learners.bbn import BBN, BBNStep, adaptor
from longtail.loading.batches import Batch
from longtail.models import NetworkSpec, build_network
from longtail.models.fork import BACKBONES, Fork
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError
from longtail.training.objective import Objective
from mixed import DRW, agree, at, copy_of, differ, make_objective


def make_step(objective: Objective | None = None, seed: int = 0) -> BBNStep:
    step = BBN().step_for(forked.make_network(seed), objective or make_objective())
    assert isinstance(step, BBNStep)
    return step.double().train()


def run(step: BBNStep, progress: float, uniform: Batch, reversed_batch: Batch) -> Tensor:
    loss: Tensor = step(uniform, reversed_batch, progress=at(progress), generator=generator(0, "draws"))
    return loss


def branches(network: Network) -> Fork:
    fork = network.stages[-1]
    assert isinstance(fork, Fork)
    return fork


def pooled(maps: Tensor) -> list[list[Tensor]]:
    """Average each map over its pixels."""
    return [[sum(m.flatten()) / m.numel() for m in image] for image in maps]


class Oracle:
    """The paper's section 4: three components, one sum for each logit."""

    def __init__(self, network: Network, weights: list[float]) -> None:
        self.network, self.weights = network, weights

    def loss(self, uniform: Batch, reversed_batch: Batch, epoch: int, epochs: int) -> Tensor:
        alpha = 1 - (epoch / epochs) ** 2
        fork = branches(self.network)
        f_c = pooled(fork.conventional(self.network.maps(uniform.images, stop=-1)))
        f_r = pooled(fork.reversed(self.network.maps(reversed_batch.images, stop=-1)))
        logits = [self._logits(c, r, alpha) for c, r in zip(f_c, f_r, strict=True)]
        first, second = (self._mean(logits, batch.labels.tolist()) for batch in (uniform, reversed_batch))
        return alpha * first + (1 - alpha) * second

    def _logits(self, f_c: list[Tensor], f_r: list[Tensor], alpha: float) -> Tensor:
        weight, bias, dim = self.network.classifier.weight, self.network.classifier.bias, len(f_c)
        assert isinstance(bias, Tensor)
        logits = []
        for k in range(len(weight)):
            conventional = sum(weight[k, d] * 2 * alpha * f_c[d] for d in range(dim))
            rebalancing = sum(weight[k, dim + d] * 2 * (1 - alpha) * f_r[d] for d in range(dim))
            logits.append(conventional + rebalancing + bias[k])
        return torch.stack(logits)

    def _mean(self, logits: list[Tensor], labels: list[int]) -> Tensor:
        total = sum(self.weights[y] * cross_entropy(z, y) for z, y in zip(logits, labels, strict=True))
        assert isinstance(total, Tensor)
        return total / sum(self.weights[y] for y in labels)


@pytest.mark.parametrize(("epoch", "epochs"), [(0, 4), (1, 4), (3, 4), (199, 200)])
@pytest.mark.parametrize("size", [8, 5])
def test_loss_gradients_and_statistics_are_the_papers(epoch: int, epochs: int, size: int) -> None:
    step, pair = make_step(), batches(epoch, size)
    network = copy_of(step)
    theirs = Oracle(network, [1.0] * 5).loss(*pair, epoch, epochs)
    agree(step, run(step, epoch / epochs, *pair), network, theirs)


def test_class_weights_enter_each_batchs_mean_by_its_own_labels() -> None:
    objective = make_objective(reweighting=DRW)
    step, pair = make_step(objective), batches(0, 8)
    network = copy_of(step)
    theirs = Oracle(network, objective.class_weights.tolist()).loss(*pair, 3, 4)
    ours = run(step, 3 / 4, *pair)
    agree(step, ours, network, theirs)
    assert differ(ours, Oracle(network, [1.0] * 5).loss(*pair, 3, 4))


@given(epochs=st.integers(1, 400))
def test_the_adaptor_falls_from_one_and_never_reaches_zero(epochs: int) -> None:
    alphas = [float(adaptor(at(epoch / epochs))) for epoch in range(epochs)]
    assert alphas[0] == 1
    assert all(a > b for a, b in pairwise(alphas))
    assert alphas == pytest.approx([(epochs - T) * (epochs + T) / epochs**2 for T in range(epochs)])
    assert alphas[-1] > 0


def test_at_first_only_the_conventional_branch_learns() -> None:
    """Progress 0 is alpha 1: the objective of the first batch, with the branch's features doubled and the other's 0."""
    uniform, rare = batches(0, 8)
    step, objective = make_step(), make_objective()
    network = copy_of(step)
    features = branches(network)(network.maps(uniform.images, stop=-1), "conventional").mean((2, 3))
    expected = objective(network.classifier(torch.cat([2 * features, 0 * features], 1)), uniform.labels, at(0))
    loss = run(step, 0.0, uniform, rare)
    torch.testing.assert_close(loss, expected)
    assert run(make_step(), 0.0, uniform, Batch(rare.images, (rare.labels + 1) % 5)).equal(loss)
    fork = branches(step.network)
    idle = torch.autograd.grad(loss, list(fork.reversed.parameters()), retain_graph=True)
    assert not any(gradient.any() for gradient in idle)
    weight = torch.autograd.grad(loss, step.network.classifier.weight)[0]
    assert weight[:, :16].any() and not weight[:, 16:].any()


def test_at_last_only_the_rebalancing_branch_learns() -> None:
    """Progress 1, which no epoch reaches, is alpha 0."""
    uniform, rare = batches(0, 8)
    step, objective = make_step(), make_objective()
    network = copy_of(step)
    features = branches(network)(network.maps(rare.images, stop=-1), "reversed").mean((2, 3))
    expected = objective(network.classifier(torch.cat([0 * features, 2 * features], 1)), rare.labels, at(1))
    loss = run(step, 1.0, uniform, rare)
    torch.testing.assert_close(loss, expected)
    idle = torch.autograd.grad(loss, list(branches(step.network).conventional.parameters()))
    assert not any(gradient.any() for gradient in idle)


def test_between_both_branches_learn_from_both_labels() -> None:
    """The logits are one sum, so each loss reaches each branch: of fixed images the labels of either side matter."""
    uniform, rare = batches(0, 8)
    for branch in ("conventional", "reversed"):
        slopes = []
        for labels in ((uniform.labels, rare.labels), (uniform.labels, uniform.labels), (rare.labels, rare.labels)):
            step = make_step()
            loss = run(step, 0.5, Batch(uniform.images, labels[0]), Batch(rare.images, labels[1]))
            parameter = next(getattr(branches(step.network), branch).parameters())
            slopes.append(torch.autograd.grad(loss, parameter)[0])
        assert all(slope.any() for slope in slopes)
        assert not slopes[0].allclose(slopes[1]) and not slopes[0].allclose(slopes[2])


def test_at_test_alpha_is_a_half_which_is_the_network_as_it_is() -> None:
    step, images = make_step().eval(), batches(0, 8)[0].images
    torch.testing.assert_close(step.features(images, images, at(0.5)), step.network.features(images))


def test_each_branchs_statistics_are_of_its_own_sampler() -> None:
    uniform, rare = batches(0, 8)
    step = make_step()
    run(step, 0.5, uniform, rare)
    expected = copy_of(make_step())
    branches(expected)(expected.maps(uniform.images, stop=-1), "conventional")
    branches(expected)(expected.maps(rare.images, stop=-1), "reversed")
    for name, value in expected.named_buffers():
        torch.testing.assert_close(step.network.get_buffer(name), value, msg=f"{name} differs")
    counts = {int(value) for name, value in expected.named_buffers() if name.endswith("tracked")}
    assert counts == {1, 2}  # the shared stage has seen both batches, each branch one


def test_it_draws_nothing() -> None:
    draws, step = generator(0, "draws"), make_step()
    before = draws.get_state()
    step(*batches(0, 8), progress=at(0.5), generator=draws)
    assert draws.get_state().equal(before)


def test_a_network_of_one_branch_is_refused_with_those_that_fork() -> None:
    names = re.escape(", ".join(BACKBONES))
    with pytest.raises(InputError, match=rf"^network\.backbone does not fork, .*learner bbn .*Choose one of {names}"):
        BBN().step_for(tiny.make_network(), make_objective())


@pytest.mark.parametrize("backbone", ["bbn_digits_cnn", "bbn_resnet20"])
@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_it_trains_the_backbones_that_fork(backbone: str, classifier: Any) -> None:
    spec = NetworkSpec(backbone=backbone, classifier=classifier, scale=1.0, weights=None)
    network = build_network(
        spec, channels=3, image_size=8, num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3, seed=0
    ).double()
    step = BBN().step_for(network, make_objective())
    loss: Tensor = step(*batches(0, 8), progress=at(0.5), generator=generator(0, "draws"))
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert all(bool(gradient.any()) and bool(gradient.isfinite().all()) for gradient in gradients)
    assert set(deepcopy(network).state_dict()) == set(network.state_dict())
