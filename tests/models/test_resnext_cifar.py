"""ResNeXt-29, 8x64d against the paper: parameters counted by hand, and a block as eight paths that are summed."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.resnext_cifar import BACKBONES, Bottleneck

PUBLISHED = 34.4  # million parameters with 10 classes, Xie et al. 2017, Table 7


def test_parameter_count_is_the_papers() -> None:
    count, inputs = 3 * 64 * 9 + 2 * 64, 64
    for stage, outputs in enumerate((256, 512, 1024)):
        path = 64 * 2**stage
        for _ in range(3):
            for _ in range(8):  # section 4: each path reduces, convolves and expands by itself
                count += inputs * path + path * path * 9 + path * outputs + 2 * path + 2 * path
            count += 2 * outputs
            count += inputs * outputs + 2 * outputs if inputs != outputs else 0
            inputs = outputs
    with torch.device("meta"):
        stages = nn.ModuleList(BACKBONES["resnext29"].build(3, 32))
    assert sum(p.numel() for p in stages.parameters()) == count
    assert round((count + 1025 * 10) / 1e6, 1) == PUBLISHED


def test_maps_have_the_shapes_that_rsg_meets() -> None:
    shapes = []
    with torch.device("meta"):
        maps = torch.rand(2, 3, 32, 32)
        for stage in BACKBONES["resnext29"].build(3, 32):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(256, 32, 32), (512, 16, 16), (1024, 8, 8)]
    assert shapes[-1][0] == BACKBONES["resnext29"].feature_dim


def lively_block(inputs: int, outputs: int, stride: int) -> Bottleneck:
    torch.manual_seed(0)
    block = Bottleneck(inputs, 32, outputs, stride).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return block.eval()


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(12, 12, 1), (12, 20, 1), (12, 20, 2), (12, 12, 2)])
def test_a_block_is_the_sum_of_eight_paths(inputs: int, outputs: int, stride: int) -> None:
    """Eq. 2 and Fig. 3 (a): y = x + sum of T_i(x), T_i: reduce to 4 channels, 3x3, expand; i = 1 ... 8."""
    block = lively_block(inputs, outputs, stride)
    maps = torch.randn(2, inputs, 5, 6, dtype=torch.float64)
    (reduce, reduced), (convolve, convolved), (expand, expanded) = map(parts, (block.reduce, block.paths, block.expand))
    total = torch.zeros(())
    for path in range(8):
        own = slice(4 * path, 4 * path + 4)
        x = normalise(F.conv2d(maps, reduce[own]), reduced, own).clamp(min=0)
        x = normalise(F.conv2d(x, convolve[own], stride=stride, padding=1), convolved, own).clamp(min=0)
        total = total + F.conv2d(x, expand[:, own])
    total = normalise(total, expanded, slice(None))
    if len(block.shortcut):
        projection, projected = parts(block.shortcut)
        expected = total + normalise(F.conv2d(maps, projection, stride=stride), projected, slice(None))
    else:
        expected = total + maps
    assert bool(len(block.shortcut)) == ((inputs, 1) != (outputs, stride))
    torch.testing.assert_close(block(maps), expected.clamp(min=0))


def parts(layers: nn.Module) -> tuple[Tensor, nn.BatchNorm2d]:
    convolution, norm = layers.children()
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and convolution.bias is None
    return convolution.weight, norm


def normalise(x: Tensor, norm: nn.BatchNorm2d, own: slice) -> Tensor:
    """Batch normalisation at test, of some of its channels."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight[own] / (norm.running_var[own] + norm.eps).sqrt()
    return (x - norm.running_mean[own][:, None, None]) * scale[:, None, None] + norm.bias[own][:, None, None]


def test_stages_start_with_the_stem_and_the_stride() -> None:
    """3x3 to 64 channels, then three blocks each; the first of stages two and three halve the maps."""
    with torch.device("meta"):
        first, *others = BACKBONES["resnext29"].build(3, 32)
    assert isinstance(first, nn.Sequential)
    assert isinstance(first[0], nn.Conv2d) and first[0].kernel_size == (3, 3) and first[0].out_channels == 64
    assert isinstance(first[2], nn.ReLU)
    blocks = [module for stage in (first, *others) for module in stage.modules() if isinstance(module, Bottleneck)]
    assert [parts(block.paths)[0].shape[0] for block in blocks] == [512] * 3 + [1024] * 3 + [2048] * 3
    strides = [
        next(module.stride for module in block.paths.modules() if isinstance(module, nn.Conv2d)) for block in blocks
    ]
    assert strides == [(1, 1)] * 3 + [(2, 2), (1, 1), (1, 1)] * 2


def test_features_are_not_negative() -> None:
    block = lively_block(12, 20, 2)
    maps = block(torch.randn(4, 12, 6, 6, dtype=torch.float64))
    assert bool((maps >= 0).all()) and bool((maps == 0).any())


def test_kernels_start_normal_by_all_outputs_of_all_groups() -> None:
    torch.manual_seed(0)
    blocks = [m for m in nn.ModuleList(BACKBONES["resnext29"].build(3, 32)).modules() if isinstance(m, Bottleneck)]
    kernel = parts(blocks[0].paths)[0].detach()
    assert kernel.shape == (512, 64, 3, 3)
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.02)
