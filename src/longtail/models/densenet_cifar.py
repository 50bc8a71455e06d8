"""DenseNet-40 for CIFAR: three dense blocks of 12 layers, each of which adds 12 channels to all that came before.

    x_l = [x_(l-1), conv3x3(relu(bn(x_(l-1))))]
    avg_pool(conv1x1(relu(bn(x)))) between the blocks,   relu(bn(x)) at the end

For 32 x 32 images the maps are (168, 32, 32), (312, 16, 16), (312, 8, 8), (456, 8, 8). The second transition is a stage
of its own: RSG's paper places its module before a down-sampling, (312, 16, 16), its code behind it, (312, 8, 8).

Source    Huang et al., CVPR 2017, arXiv:1608.06993, section 3, growth 12 without bottleneck and compression; stem and
          weights as in the released code of RSG (Wang et al., CVPR 2021, arXiv:2106.09859)
Differs   the stem has 24 channels as there, not 16 as in the paper of DenseNet: 1.06 million parameters, not 1.02
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.backbone import Backbone

DEPTH, GROWTH = 40, 12
STEM = 2 * GROWTH
LAYERS = (DEPTH - 4) // 3  # of a block; the four are the stem, two transitions and the classifier


class DenseLayer(nn.Module):
    """[x, conv3x3(relu(bn(x)))].

    Args:
        inputs: channels of x.
        growth: channels that it adds.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, inputs + growth, H, W)."""
        return torch.cat([maps, self.conv(F.relu(self.bn(maps)))], 1)


def build(stem: int, channels: int, image_size: int) -> list[nn.Module]:
    """Build stem and block one, transition and block two, transition, block three; any image size will do.

    Args:
        stem: channels of the first convolution.
    """
    first, second, third = (stem + block * LAYERS * GROWTH for block in (1, 2, 3))
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(channels, stem, 3, padding=1, bias=False), *_block(stem)),
        nn.Sequential(*_transition(first), *_block(first)),
        nn.Sequential(*_transition(second)),
        nn.Sequential(*_block(second), nn.BatchNorm2d(third), nn.ReLU()),
    ]
    for module in nn.ModuleList(stages).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return stages


def _block(inputs: int) -> list[nn.Module]:
    return [DenseLayer(inputs + layer * GROWTH, GROWTH) for layer in range(LAYERS)]


def _transition(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.BatchNorm2d(channels), nn.ReLU(), convolution, nn.AvgPool2d(2)]


BACKBONES = {"densenet40": Backbone(partial(build, STEM), STEM + 3 * LAYERS * GROWTH, min_size=4)}
