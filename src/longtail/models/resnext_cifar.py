"""ResNeXt-29, 8x64d for CIFAR: bottlenecks whose middle convolution is 8 paths, of 64 channels each in stage one.

    relu(shortcut(x) + bn(conv1x1(relu(bn(conv3x3_in_8_groups(relu(bn(conv1x1(x)))))))))

A 3x3 stem to 64 channels and three stages of three blocks, widths 256/512/1024, strides 1/2/2. For 32 x 32 images the
maps are (256, 32, 32), (512, 16, 16), (1024, 8, 8).

Source    Xie et al., CVPR 2017, arXiv:1611.05431, section 5.3: 34.4 million parameters; weights drawn as in its code
Differs   nothing: shortcuts are projections where the shape changes (option B), grouped convolutions as in its Fig. 3 c
"""

from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.backbone import Backbone

CARDINALITY, PATH = 8, 64  # paths, and channels of each in stage one
WIDTHS = (256, 512, 1024)
BLOCKS, STEM = 3, 64


class Bottleneck(nn.Module):
    """Reduce, convolve in groups, expand, and add the shortcut.

    Args:
        inputs, outputs: channels of the block.
        inner: channels of the grouped convolution, all paths together.
        stride: of the grouped convolution and of the shortcut.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.reduce = _normed(nn.Conv2d(inputs, inner, 1, bias=False))
        self.paths = _normed(nn.Conv2d(inner, inner, 3, stride, padding=1, groups=CARDINALITY, bias=False))
        self.expand = _normed(nn.Conv2d(inner, outputs, 1, bias=False))
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = _normed(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride)), non-negative."""
        residual = self.expand(F.relu(self.paths(F.relu(self.reduce(maps)))))
        return F.relu(residual + self.shortcut(maps))


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def build(channels: int, image_size: int) -> list[nn.Module]:
    """Build stem and stage one, stage two, stage three; any image size will do."""
    stem = (*_normed(nn.Conv2d(channels, STEM, 3, padding=1, bias=False)), nn.ReLU())
    stages: list[nn.Module] = [
        nn.Sequential(*stem, *_stage(STEM, 0, 1)),
        nn.Sequential(*_stage(WIDTHS[0], 1, 2)),
        nn.Sequential(*_stage(WIDTHS[1], 2, 2)),
    ]
    for module in nn.ModuleList(stages).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return stages


def _stage(inputs: int, place: int, stride: int) -> list[nn.Module]:
    inner, outputs = CARDINALITY * PATH * 2**place, WIDTHS[place]
    more = (Bottleneck(outputs, inner, outputs, 1) for _ in range(BLOCKS - 1))
    return [Bottleneck(inputs, inner, outputs, stride), *more]


BACKBONES = {"resnext29": Backbone(build, WIDTHS[-1], min_size=4)}
