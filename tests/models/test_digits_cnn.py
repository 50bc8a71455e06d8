"""The digits' convnet: its shapes, its features, and that it learns real digits in a moment."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from longtail.models.digits_cnn import BACKBONES


def test_maps_have_the_documented_shapes_and_are_not_negative() -> None:
    torch.manual_seed(0)
    maps, shapes = torch.rand(5, 1, 8, 8), []
    for stage in BACKBONES["digits_cnn"].build(1, 8):
        maps = stage(maps)
        shapes.append(tuple(maps.shape[1:]))
        assert float(maps.detach().min()) == 0
    assert shapes == [(32, 8, 8), (64, 4, 4), (64, 4, 4)]


def test_it_learns_digits_it_has_not_seen() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
    network = nn.Sequential(*BACKBONES["digits_cnn"].build(1, 8), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for batch in torch.randperm(1000).view(20, 50):
        loss = F.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    predictions = network.eval()(images[1000:]).argmax(1)
    assert (predictions == labels[1000:]).float().mean() > 0.7  # one epoch; chance is 0.1
