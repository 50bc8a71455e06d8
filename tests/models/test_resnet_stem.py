"""ResNet-18/34 with a CIFAR stem against torchvision's own nets with the stem put in."""

import pytest
import torch
import torchvision
from torch import nn

from longtail.models.resnet_stem import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_documented_shapes(name: str) -> None:
    shapes = []
    with torch.device("meta"):
        maps = torch.rand(2, 3, 32, 32)
        for stage in BACKBONES[name].build(3, 32):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_those_of_torchvisions_net_with_a_cifar_stem(name: str) -> None:
    torch.manual_seed(0)
    stages = nn.Sequential(*BACKBONES[name].build(1, 16)).eval()
    reference = torchvision.models.get_model(name)
    reference.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    reference.maxpool, reference.fc = nn.Identity(), nn.Identity()
    ours = stages.state_dict()
    reference.load_state_dict(dict(zip(reference.state_dict(), ours.values(), strict=True)))
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(stages(images).mean((2, 3)), reference.eval()(images))
