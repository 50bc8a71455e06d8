"""ResNet-20/32/56/110 for CIFAR: the backbone of the long-tailed CIFAR tables.

A 3x3 stem to 16 channels and three stages of basic blocks, widths 16/32/64, strides 1/2/2; depth = 6 blocks + 2.
For 32 x 32 images the maps are (16, 32, 32), (32, 16, 16), (64, 8, 8).

Source    He et al., CVPR 2016, arXiv:1512.03385, section 4.2; weights drawn as in LDAM-DRW (Cao et al., NeurIPS 2019)
Differs   nothing: 0.46 million parameters at depth 32, 1.7 at 110, shortcuts of option A
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.backbone import Backbone

WIDTHS = (16, 32, 64)
DEPTHS = (20, 32, 56, 110)


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a shortcut of option A: it has no parameters.

    Args:
        inputs, outputs: channels, equal or outputs = 2 x inputs.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride)), non-negative."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(residual + self.shortcut(maps))

    def shortcut(self, maps: Tensor) -> Tensor:
        """Take every stride-th pixel and pad with channels of zeros, as many before as behind (option A)."""
        if self.padding == 0:
            return maps
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


def build(depth: int, channels: int, image_size: int) -> list[nn.Module]:
    """Build stem and stage one, stage two, stage three; any image size will do."""
    blocks = (depth - 2) // 6
    stem = (nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
    stages: list[nn.Module] = [
        nn.Sequential(*stem, *_stage(WIDTHS[0], WIDTHS[0], 1, blocks)),
        nn.Sequential(*_stage(WIDTHS[0], WIDTHS[1], 2, blocks)),
        nn.Sequential(*_stage(WIDTHS[1], WIDTHS[2], 2, blocks)),
    ]
    for module in nn.ModuleList(stages).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return stages


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> list[nn.Module]:
    return [BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))]


BACKBONES = {f"resnet{depth}": Backbone(partial(build, depth), WIDTHS[-1], min_size=4) for depth in DEPTHS}
