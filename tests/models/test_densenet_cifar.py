"""DenseNet-40 against the paper: parameters counted by hand, and the network written again without modules."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.densenet_cifar import BACKBONES, DenseLayer, build

PAPER_STEM, RSG_STEM = 16, 24
PUBLISHED = 1.0  # million parameters, Huang et al. 2017, Table 2, k = 12 and L = 40


def counted(stem: int) -> int:
    """Count the parameters of three blocks of 12 layers of growth 12, and of two transitions that keep the channels."""
    count, channels = 3 * stem * 9, stem
    for block in range(3):
        for _ in range(12):
            count += 2 * channels + channels * 12 * 9  # BatchNorm, convolution without bias
            channels += 12
        count += 2 * channels  # the transition's BatchNorm, or the last one
        count += channels * channels if block < 2 else 0
    return count


@pytest.mark.parametrize("stem", [PAPER_STEM, RSG_STEM])
def test_parameters_are_those_counted_by_hand(stem: int) -> None:
    assert sum(p.numel() for p in nn.ModuleList(build(stem, 3, 32)).parameters()) == counted(stem)


def test_with_the_papers_stem_parameters_are_as_many_as_published() -> None:
    features = PAPER_STEM + 36 * 12
    assert round((counted(PAPER_STEM) + (features + 1) * 10) / 1e6, 1) == PUBLISHED


def test_maps_have_the_shapes_that_rsg_meets() -> None:
    shapes = []
    with torch.device("meta"):
        maps = torch.rand(2, 3, 32, 32)
        for stage in BACKBONES["densenet40"].build(3, 32):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(168, 32, 32), (312, 16, 16), (312, 8, 8), (456, 8, 8)]
    assert shapes[-1][0] == BACKBONES["densenet40"].feature_dim


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [8, 11])
def test_output_is_that_of_the_network_written_without_modules(size: int, training: bool) -> None:
    torch.manual_seed(0)
    stages = nn.ModuleList(BACKBONES["densenet40"].build(2, size)).double().train(training)
    for norm in norms_of(stages):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.data.uniform_(0.5, 1.5)
        norm.bias.data.sub_(1)  # so that the ReLUs have something to cut
    images = torch.rand(3, 2, size, size, dtype=torch.float64)
    expected = plain_densenet(stages, images, training)
    maps = nn.Sequential(*stages)(images)
    torch.testing.assert_close(maps, expected)
    assert bool((maps >= 0).all()) and bool((maps == 0).any())


def norms_of(stages: nn.ModuleList) -> list[nn.BatchNorm2d]:
    return [module for module in stages.modules() if isinstance(module, nn.BatchNorm2d)]


def plain_densenet(stages: nn.ModuleList, images: Tensor, training: bool) -> Tensor:
    """Compute the paper's network (section 3): a layer sees all outputs before it; weights in their order."""
    kernels = iter([m.weight for m in stages.modules() if isinstance(m, nn.Conv2d)])
    norms = iter(norms_of(stages))

    def activate(x: Tensor) -> Tensor:
        return normalise(x, next(norms), training).clamp(min=0)

    x = F.conv2d(images, next(kernels), padding=1)
    for block in range(3):
        outputs = [x]  # x_0 ... x_l, kept apart
        for _ in range(12):
            outputs.append(F.conv2d(activate(torch.cat(outputs, 1)), next(kernels), padding=1))
        x = torch.cat(outputs, 1)
        if block < 2:
            x = halve(F.conv2d(activate(x), next(kernels)))
    return activate(x)


def halve(x: Tensor) -> Tensor:
    """Average 2 x 2 pixels; an odd row or column at the end is left out."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    x = x[:, :, :height, :width]
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def normalise(x: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    """Batch normalisation by its formula (Ioffe and Szegedy, 2015), before the running statistics move."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean = x.mean((0, 2, 3)) if training else norm.running_mean
    variance = x.var((0, 2, 3), unbiased=False) if training else norm.running_var
    scale = norm.weight / (variance + norm.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_a_layer_passes_its_input_on_untouched() -> None:
    layer = DenseLayer(5, 3)
    maps = torch.randn(2, 5, 4, 4)
    after = layer(maps)
    assert after.shape == (2, 8, 4, 4)
    assert after[:, :5].equal(maps)


def test_kernels_start_normal_by_their_outputs() -> None:
    torch.manual_seed(0)
    kernel = [m.weight for m in nn.ModuleList(build(24, 3, 32)).modules() if isinstance(m, nn.Conv2d)][-1].detach()
    assert kernel.shape == (12, 444, 3, 3)
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (12 * 9)), rel=0.02)
    kurtosis = (kernel**4).mean() / (kernel**2).mean() ** 2
    assert 2.8 < float(kurtosis) < 3.2  # 3 for a normal, 1.8 for a uniform
