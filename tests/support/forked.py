"""A tiny network that forks: the one of `tiny`, with its last stage twice."""

from torch import nn

import tiny
from longtail.models.classifier import LinearClassifier
from longtail.models.fork import Fork
from longtail.models.network import Network
from longtail.seeding import seeded


def make_network(seed: int = 0) -> Network:
    """Build a shared stage, a fork into two of 16 channels each, and a linear classifier of 32 features."""
    first, last = tiny.make_network(seed).stages
    _, other = tiny.make_network(seed + 1000).stages
    with seeded(seed, "forked network"):
        classifier = LinearClassifier(32, len(tiny.COUNTS))
    assert isinstance(first, nn.Module)
    return Network([first, Fork(last, other)], classifier, (3, 8, 8))
