"""The backbones and the network built on one. Adding a family is a file here and a word in `BACKBONES`."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from longtail.models import (
    densenet_cifar,
    digits_cnn,
    fork,
    imagenet,
    lenet,
    resnet_cifar,
    resnet_stem,
    resnext_cifar,
)
from longtail.models.backbone import Backbone
from longtail.models.classifier import CosineClassifier, LinearClassifier
from longtail.models.network import Network, Normalize
from longtail.seeding import seeded
from longtail.spec import InputError, Spec

BACKBONES: dict[str, Backbone] = (
    digits_cnn.BACKBONES
    | lenet.BACKBONES
    | resnet_cifar.BACKBONES
    | resnet_stem.BACKBONES
    | densenet_cifar.BACKBONES
    | resnext_cifar.BACKBONES
    | fork.BACKBONES
    | imagenet.BACKBONES
)


class NetworkSpec(Spec):
    """A backbone and its classifier.

    Args:
        backbone: a name in `BACKBONES`.
        classifier: `linear`, or `cosine` (unit-length features and class weights).
        scale: multiplies the cosines; 1 where the loss brings its own scale, and for a linear classifier.
        weights: what an `imagenet_*` backbone that torchvision has starts from: a name of torchvision's weights
            (downloaded), a file with the state_dict of its model (.pth, .pt, .safetensors), or null. Other backbones
            take null.
    """

    backbone: str
    classifier: Literal["linear", "cosine"]
    scale: float = Field(gt=0)
    weights: str | None

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, backbone: str) -> str:
        if backbone not in BACKBONES:
            raise ValueError(f"'{backbone}' is not a backbone; choose one of {', '.join(BACKBONES)}")
        return backbone

    @field_validator("scale")
    @classmethod
    def _is_used(cls, scale: float, info: ValidationInfo) -> float:
        if info.data.get("classifier") == "linear" and scale != 1:
            raise ValueError(f"a linear classifier would ignore {scale:g}; write 1.0, or classifier: cosine")
        return scale

    @field_validator("weights")
    @classmethod
    def _fit_backbone(cls, weights: str | None, info: ValidationInfo) -> str | None:
        backbone = info.data.get("backbone")
        if weights is None or backbone is None:
            return weights
        if backbone not in imagenet.TORCHVISION:
            names = ", ".join(imagenet.TORCHVISION)
            raise ValueError(
                f"{backbone} has no pretrained weights, but got '{weights}'; write null, or choose {names}"
            )
        imagenet.check_weights(backbone, weights)
        return weights


def build_network(
    spec: NetworkSpec,
    *,
    channels: int,
    image_size: int,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Network:
    """Build a network with fresh (or pretrained) weights; equal arguments give equal bits.

    A saved network is rebuilt from a spec whose `weights` are null: what it once started from may be gone.

    Args:
        channels, image_size: of the images; size is a side in pixels.
        num_classes: K.
        mean, std: per channel, of pixels in [0, 1].
        seed: of the training run.

    Raises:
        InputError: if the images do not fit the backbone, or the weights cannot be loaded.
    """
    backbone = BACKBONES[spec.backbone]
    _check_images(spec.backbone, channels, image_size)
    assert len(mean) == len(std) == channels
    with seeded(seed, "network"):
        stages = backbone.build(channels, image_size)
        classifier = _classifier(spec, backbone.feature_dim, num_classes)
    if spec.weights is not None:
        imagenet.load_weights(stages, spec.backbone, spec.weights)
    shape = (channels, image_size, image_size)
    if not backbone.standardised:
        mean, std = (0.0,) * channels, (1.0,) * channels
    return Network([nn.Sequential(Normalize(mean, std), stages[0]), *stages[1:]], classifier, shape)


def _classifier(spec: NetworkSpec, feature_dim: int, num_classes: int) -> LinearClassifier | CosineClassifier:
    if spec.classifier == "cosine":
        return CosineClassifier(feature_dim, num_classes, spec.scale)
    return LinearClassifier(feature_dim, num_classes)


def _check_images(name: str, channels: int, image_size: int) -> None:
    if not BACKBONES[name].takes(channels, image_size):
        fitting = ", ".join(other for other, backbone in BACKBONES.items() if backbone.takes(channels, image_size))
        raise InputError(
            f"network.backbone is {name}, which takes {BACKBONES[name].images}, but the data's images have {channels} "
            f"channels and {image_size} pixels a side. Choose one of {fitting}."
        )
