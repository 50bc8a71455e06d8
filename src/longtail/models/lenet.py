"""LeNet for MNIST and Fashion-MNIST, with its usual 84 features or with 2, which can be drawn.

Convolutions 5x5 to 6 and 16 channels, each with ReLU and 2x2 max-pool, then full layers of 120 and 84, written as
convolutions so that every stage maps maps to maps. For 28 x 28 images: (6, 14, 14), (16, 5, 5), (84, 1, 1), and for
`lenet_2d` a linear (2, 1, 1), whose features may be negative.

Source    LeCun et al., Proc. IEEE 1998; the 2-d features of CSA's Table 1 and Figure 2 (Shi et al., NeurIPS 2023)
Differs   ReLU and max-pool for tanh and trained subsampling, as everywhere today; the first convolution pads by 2, as
          images are 28 wide instead of 32. As in CSA's released code, weights are Kaiming-normal and images are left in
          [0, 1]: standardised ones diverge at its learning rate of 0.1
"""

from functools import partial

from torch import nn

from longtail.models.backbone import Backbone


def build(plane: bool, channels: int, image_size: int) -> list[nn.Module]:
    """Build two convolutional stages and the full layers, whose first one spans whatever map is left.

    Args:
        plane: whether a linear layer to two features comes last.
    """
    side = (image_size // 2 - 4) // 2
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 120, side), nn.ReLU(), nn.Conv2d(120, 84, 1), nn.ReLU()),
    ]
    stages += [nn.Conv2d(84, 2, 1)] if plane else []
    for module in nn.ModuleList(stages).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return stages


BACKBONES = {
    "lenet": Backbone(partial(build, False), 84, min_size=12, standardised=False),
    "lenet_2d": Backbone(partial(build, True), 2, min_size=12, standardised=False),
}
