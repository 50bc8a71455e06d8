"""A tiny network that has learned the tiny split, for balancers that look at images."""

from copy import deepcopy
from functools import cache

import torch
from torch.nn import functional as F

import tiny
from longtail.models.network import Network


def trained_network() -> Network:
    """Return a frozen network after a hundred full-batch steps of cross entropy: head classes right, tail not all."""
    return deepcopy(_trained())


@cache
def _trained() -> Network:
    network, split = tiny.make_network().train(), tiny.make_split()
    assert isinstance(split.train.images, torch.Tensor)
    images = split.train.images.float().div(255)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(100):
        loss = F.cross_entropy(network(images), split.train.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.freeze()
