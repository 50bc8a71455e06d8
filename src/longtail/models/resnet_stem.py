"""ResNet-18/34 with a CIFAR stem: torchvision's nets of basic blocks behind a 3x3 convolution, for small images.

For 32 x 32 images the maps are (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4).

Source    He et al., CVPR 2016, arXiv:1512.03385; the CIFAR backbones of OFA (Chu et al., ECCV 2020, arXiv:2008.03673)
Differs   from torchvision: the first convolution is 3x3 with stride 1, and no max-pool follows
"""

from functools import partial

from torch import nn

from longtail.models.backbone import Backbone

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def build(blocks: tuple[int, ...], channels: int, image_size: int) -> list[nn.Module]:
    """Build stem and stage one, then stages two to four; any image size will do."""
    from torchvision.models.resnet import BasicBlock, ResNet  # here: see longtail.models.imagenet

    net = ResNet(BasicBlock, list(blocks))
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own layers
    return [nn.Sequential(stem, net.bn1, net.relu, *net.layer1), net.layer2, net.layer3, net.layer4]


BACKBONES = {name: Backbone(partial(build, blocks), 512, min_size=8) for name, blocks in BLOCKS.items()}
