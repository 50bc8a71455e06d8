"""ResNet-20/32/56/110 against the paper: parameters counted by hand, and the network written again without modules."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.resnet_cifar import BACKBONES, BasicBlock, build

PUBLISHED = {20: 0.27, 32: 0.46, 56: 0.85, 110: 1.7}  # million parameters with 10 classes, He et al. 2016, Table 6


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameter_count_is_the_papers(depth: int) -> None:
    blocks, inputs, count = (depth - 2) // 6, 16, 3 * 16 * 9 + 2 * 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            count += inputs * width * 9 + 2 * width  # convolution without bias, BatchNorm
            count += width * width * 9 + 2 * width
            inputs = width
    assert sum(p.numel() for p in nn.ModuleList(build(depth, 3, 32)).parameters()) == count
    digits = len(str(PUBLISHED[depth]).split(".")[1])
    assert round((count + 64 * 10 + 10) / 1e6, digits) == PUBLISHED[depth]


@pytest.mark.parametrize("depth", PUBLISHED)
def test_maps_have_the_published_shapes(depth: int) -> None:
    maps = torch.rand(2, 3, 32, 32)
    shapes = []
    for stage in build(depth, 3, 32):
        maps = stage(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert shapes[-1][0] == BACKBONES[f"resnet{depth}"].feature_dim


@pytest.mark.parametrize("size", [8, 9, 32])
@pytest.mark.parametrize("training", [True, False])
def test_output_is_that_of_the_network_written_without_modules(size: int, training: bool) -> None:
    torch.manual_seed(0)
    stages = nn.ModuleList(build(20, 3, size)).double().train(training)
    for module in stages.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    images = torch.rand(3, 3, size, size, dtype=torch.float64)
    expected = plain_resnet(stages, images, blocks=3, training=training)
    torch.testing.assert_close(nn.Sequential(*stages)(images), expected)


def plain_resnet(stages: nn.ModuleList, images: Tensor, blocks: int, training: bool) -> Tensor:
    """Compute the paper's network (section 4.2, shortcuts of option A) from the weights in their order."""
    kernels = iter([m.weight for m in stages.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in stages.modules() if isinstance(m, nn.BatchNorm2d)])

    def convolve(x: Tensor, stride: int) -> Tensor:
        return normalise(F.conv2d(x, next(kernels), stride=stride, padding=1), next(norms), training)

    x = convolve(images, 1).clamp(min=0)
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            residual = convolve(convolve(x, stride).clamp(min=0), 1)
            shortcut = torch.zeros_like(residual)
            extra = (width - x.shape[1]) // 2
            for c in range(x.shape[1]):
                shortcut[:, extra + c] = x[:, c, ::stride, ::stride]
            x = (residual + shortcut).clamp(min=0)
    return x


def normalise(x: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    """Batch normalisation by its formula (Ioffe and Szegedy, 2015), before the running statistics move."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean = x.mean((0, 2, 3)) if training else norm.running_mean
    variance = x.var((0, 2, 3), unbiased=False) if training else norm.running_var
    scale = norm.weight / (variance + norm.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_the_shortcut_of_a_wider_block_has_no_parameters_and_loses_no_gradient() -> None:
    block = BasicBlock(16, 32, 2)
    maps = torch.rand(1, 16, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(block.shortcut(maps).sum(), maps)
    expected = torch.zeros(6, 6)
    expected[::2, ::2] = 1
    assert torch.equal(gradient, expected.expand(1, 16, 6, 6))
    assert len(list(block.parameters())) == 6  # two convolutions, two BatchNorms


def test_kernels_start_kaiming_normal() -> None:
    torch.manual_seed(0)
    kernel = build(20, 3, 32)[2][-1].conv2.weight.detach()  # type: ignore[index]
    assert isinstance(kernel, Tensor)
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)
    kurtosis = (kernel**4).mean() / (kernel**2).mean() ** 2
    assert 2.8 < float(kurtosis) < 3.2  # 3 for a normal, 1.8 for a uniform


def test_channels_last_stays_channels_last() -> None:
    maps = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for stage in build(20, 3, 32):
        maps = stage.to(memory_format=torch.channels_last)(maps)
        assert maps.is_contiguous(memory_format=torch.channels_last)
