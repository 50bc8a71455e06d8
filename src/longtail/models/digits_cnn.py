"""A small convnet for 8x8 handwritten digits: three 3x3 convolutions with BatchNorm, a second's work per training run.

For 8 x 8 images the maps are (32, 8, 8), (64, 4, 4), (64, 4, 4); the features are non-negative.

Source    ours; it exists so that the whole pipeline runs in minutes on two cores
"""

from torch import nn

from longtail.models.backbone import Backbone


def build(channels: int, image_size: int) -> list[nn.Module]:
    """Build three stages of one convolution each, the second of stride 2; any image size will do."""
    return [_stage(channels, 32, 1), _stage(32, 64, 2), _stage(64, 64, 1)]


def _stage(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


BACKBONES = {"digits_cnn": Backbone(build, 64, min_size=2)}
