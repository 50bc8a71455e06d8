"""A long-tailed split and a network that train in milliseconds."""

import torch
from torch import nn

from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network, Normalize
from longtail.seeding import generator, seeded

COUNTS = (20, 12, 7, 3, 1)


def make_split() -> LongTailSplit:
    """Make five separable classes of 8x8 colour images: 43 for training, 10 for validation, 20 to test."""
    return LongTailSplit(
        train=_images("train", COUNTS),
        val=_images("val", (2,) * 5),
        test=_images("test", (4,) * 5),
        classes=("ant", "bee", "cat", "dog", "elk"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        digest="tiny",
    )


def make_network(seed: int = 0) -> Network:
    """Build two convolutions with BatchNorm and a linear classifier of 16 features and 5 classes."""
    with seeded(seed, "tiny network"):
        first = nn.Sequential(Normalize((0.5,) * 3, (0.25,) * 3), *_stage(3, 8, stride=1))
        return Network([first, _stage(8, 16, stride=2)], LinearClassifier(16, len(COUNTS)), (3, 8, 8))


def _images(part: str, counts: tuple[int, ...]) -> LabeledImages:
    """Draw noisy copies of one random pattern per class: (N, 3, 8, 8)."""
    labels = torch.repeat_interleave(torch.tensor(counts))
    patterns = torch.randint(40, 216, (len(counts), 3, 8, 8), generator=generator(0, "tiny patterns"))
    noise = torch.randint(-40, 40, (len(labels), 3, 8, 8), generator=generator(0, "tiny noise", part))
    images = (patterns[labels] + noise).to(torch.uint8)
    return LabeledImages(images, labels, len(counts), [f"{part}/{i}" for i in range(len(labels))])


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
