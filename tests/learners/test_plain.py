"""Plain learning is the objective of the network's logits."""

import torch
from torch.nn import functional as F

from longtail.images.labeled import LongTailSplit
from longtail.learners.plain import Plain
from longtail.loading.batches import Batch
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.training.objective import Objective, Reweighting

GENERATOR = generator(0, "unused")


def batch_of(split: LongTailSplit) -> Batch:
    assert isinstance(split.train.images, torch.Tensor)
    return Batch(split.train.images / 255, split.train.labels)


def test_is_cross_entropy_of_the_networks_logits(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    batch = batch_of(tiny_split)
    step = Plain().step_for(tiny_network.eval(), Objective(CrossEntropy(), None, tiny_split.class_counts))
    loss = step(batch, progress=torch.tensor(0.5), generator=GENERATOR)
    expected = F.cross_entropy(tiny_network(batch.images), batch.labels)
    torch.testing.assert_close(loss, expected)


def test_loss_weights_and_progress_are_those_of_the_objective(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    batch, loss = batch_of(tiny_split), GradualBalanced(form="convex", s=1, c=2)
    objective = Objective(loss, Reweighting(beta=0.99, start=0.5, divisor="weights"), tiny_split.class_counts)
    step = Plain().step_for(tiny_network.eval(), objective)
    values = [step(batch, progress=torch.tensor(t), generator=GENERATOR) for t in (0.0, 0.4, 0.9)]
    expected = [objective(tiny_network(batch.images), batch.labels, torch.tensor(t)) for t in (0.0, 0.4, 0.9)]
    assert values == expected
    assert len({float(value.detach()) for value in values}) == 3


def test_draws_nothing(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    draws = generator(0, "step")
    step = Plain().step_for(tiny_network, Objective(CrossEntropy(), None, tiny_split.class_counts))
    step(batch_of(tiny_split), progress=torch.tensor(0.5), generator=draws)
    assert draws.get_state().equal(generator(0, "step").get_state())
