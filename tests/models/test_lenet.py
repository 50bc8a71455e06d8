"""LeNet against LeNet-5 written with full layers, and its two-feature variant."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models import NetworkSpec, build_network
from longtail.models.lenet import BACKBONES


def stages(name: str, channels: int = 1, size: int = 28) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*BACKBONES[name].build(channels, size))


@pytest.mark.parametrize("channels", [1, 3])
def test_parameter_count_is_lenet_5s(channels: int) -> None:
    convolutions = 6 * (channels * 25 + 1) + 16 * (6 * 25 + 1)
    full = 120 * (16 * 5 * 5 + 1) + 84 * (120 + 1)
    assert sum(p.numel() for p in stages("lenet", channels).parameters()) == convolutions + full


def test_output_is_that_of_lenet_5_with_full_layers() -> None:
    net, images = stages("lenet_2d").double(), torch.rand(3, 1, 28, 28, dtype=torch.float64)
    expected = lenet_5([p.detach() for p in net.parameters()], images)
    torch.testing.assert_close(net(images).mean((2, 3)).detach(), expected)


def lenet_5(weights: list[Tensor], images: Tensor) -> Tensor:
    """Compute LeCun's net with today's ReLU and max-pool, then the linear layer to two features."""
    x = images
    for i, padding in enumerate((2, 0)):
        x = F.conv2d(x, weights[2 * i], weights[2 * i + 1], padding=padding).clamp(min=0)
        x = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    x = x.flatten(1)
    for i in (2, 3):
        x = (x @ weights[2 * i].flatten(1).T + weights[2 * i + 1]).clamp(min=0)
    return x @ weights[8].flatten(1).T + weights[9]


@pytest.mark.parametrize("size", [12, 27, 28, 32, 64])
def test_every_image_size_ends_in_one_pixel(size: int) -> None:
    images = torch.rand(2, 1, size, size)
    assert stages("lenet", size=size)(images).shape == (2, 84, 1, 1)
    assert stages("lenet_2d", size=size)(images).shape == (2, 2, 1, 1)


def test_the_usual_features_are_not_negative_and_the_two_may_be() -> None:
    images = torch.rand(64, 1, 28, 28) * torch.linspace(0, 5, 64)[:, None, None, None]
    assert float(stages("lenet")(images).detach().min()) == 0
    assert float(stages("lenet_2d")(images).detach().min()) < 0


@pytest.mark.parametrize("name", ["lenet", "lenet_2d"])
def test_images_go_in_as_they_are(name: str) -> None:
    spec = NetworkSpec(backbone=name, classifier="linear", scale=1.0, weights=None)
    one, other = (
        build_network(spec, channels=1, image_size=28, num_classes=10, mean=(m,), std=(s,), seed=0).eval()
        for m, s in ((0.3, 0.4), (0.1, 0.9))
    )
    images = torch.rand(2, 1, 28, 28)
    assert one(images).equal(other(images))
