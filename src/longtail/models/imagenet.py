"""torchvision's ImageNet nets, fresh or with weights from torchvision or from a file, and the ResNet-10 of ImageNet-LT.

For 224 x 224 images the maps are (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7); those of ResNet-10, which
has one basic block per stage, are (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7).

Source    He et al., CVPR 2016, arXiv:1512.03385; Xie et al., CVPR 2017, arXiv:1611.05431 (ResNeXt-50, 32x4d);
          ResNet-10: Liu et al., CVPR 2019, arXiv:1904.05160 (OLTR), no weights are published for it
Differs   nothing: the nets are torchvision's, cut into stages, without their classifier

Every stage's process imports this module, and torchvision's models take a second to import (they bring the compiler
along), so they are imported where a net is built of them.
"""

import pickle
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from longtail.models.backbone import Backbone
from longtail.spec import InputError

TORCHVISION = {
    "imagenet_resnet50": "resnet50",
    "imagenet_resnet152": "resnet152",
    "imagenet_resnext50": "resnext50_32x4d",
}
SUFFIXES = (".pth", ".pt", ".safetensors")


def build(name: str, channels: int, image_size: int) -> list[nn.Module]:
    """Build stem and layer1, then layer2 to layer4, of torchvision's model; each child keeps torchvision's name."""
    from torchvision import models

    return _stages(models.get_model(name, weights=None))


def build_resnet10(channels: int, image_size: int) -> list[nn.Module]:
    """Build the same stages with one basic block each."""
    from torchvision.models.resnet import BasicBlock, ResNet

    return _stages(ResNet(BasicBlock, [1, 1, 1, 1]))


def _stages(net: nn.Module) -> list[nn.Module]:
    children = dict(net.named_children())
    first = nn.Sequential()
    for child in ("conv1", "bn1", "relu", "maxpool", "layer1"):
        first.add_module(child, children[child])
    return [first, *(_named(child, children[child]) for child in ("layer2", "layer3", "layer4"))]


def _named(name: str, module: nn.Module) -> nn.Sequential:
    sequential = nn.Sequential()
    sequential.add_module(name, module)
    return sequential


def check_weights(backbone: str, weights: str) -> None:
    """Check that weights are a file's name or one of torchvision's for this backbone.

    Raises:
        ValueError: if they are neither.
    """
    from torchvision import models

    published = list(models.get_model_weights(TORCHVISION[backbone]).__members__)
    if weights not in published and not weights.endswith(SUFFIXES):
        raise ValueError(
            f"'{weights}' is neither a file ({', '.join(SUFFIXES)}) nor published for {backbone}; "
            f"choose one of {', '.join(published)}, a path, or null"
        )


def load_weights(stages: list[nn.Module], backbone: str, weights: str) -> None:
    """Copy pretrained weights into fresh stages; those of the ImageNet classifier (`fc.*`) are left out.

    Args:
        stages: what `build` returned.
        weights: what `check_weights` let pass.

    Raises:
        InputError: if the file is missing, unreadable, or of another net.
        ConnectionError: if the download fails; another try may succeed.
    """
    state = _read(Path(weights)) if weights.endswith(SUFFIXES) else _download(backbone, weights)
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    net = nn.ModuleDict({name: child for stage in stages for name, child in stage.named_children()})
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:160]
        raise InputError(
            f"network.weights is '{weights}', which does not fit {backbone}: {reason} "
            f"Save the state_dict of torchvision's {TORCHVISION[backbone]}, or choose its backbone."
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    remedy = "Give a state_dict saved by torch.save or safetensors, one of torchvision's names, or null."
    if not path.is_file():
        raise InputError(f"network.weights is '{path}', but there is no such file. {remedy}")
    try:
        is_torch = path.suffix != ".safetensors"
        state = torch.load(path, map_location="cpu", weights_only=True) if is_torch else load_file(path)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = type(error).__name__
        raise InputError(f"network.weights is '{path}', which cannot be read ({reason}). {remedy}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"network.weights is '{path}', which holds something else than tensors by name. {remedy}")
    return state


def _download(backbone: str, weights: str) -> dict[str, Tensor]:
    from torchvision import models

    published = models.get_model_weights(TORCHVISION[backbone])[weights]
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise ConnectionError(
            f"network.weights is {weights}, but {published.url} could not be downloaded ({error}). "
            "Try again, or fetch the file elsewhere and give its path."
        ) from None
    return state


BACKBONES = {
    name: Backbone(partial(build, model), 2048, min_size=32, channels=3) for name, model in TORCHVISION.items()
} | {"imagenet_resnet10": Backbone(build_resnet10, 512, min_size=32, channels=3)}
