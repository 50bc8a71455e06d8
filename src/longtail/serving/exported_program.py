"""A trained model as a program in one file (torch.export), which runs where longtail is not installed.

It maps images (B, C, S, S) uint8 to probabilities (B, K) float32, for any B from 1; decoding and resizing are not in
it. Its extra file `model.json` names the K classes in order, C (`channels`) and S (`image_size`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from longtail.loading.batches import decode_bytes
from longtail.models.classifier import Classifier
from longtail.seeding import generator
from longtail.serving.predictor import Predictor, encode_png
from longtail.spec import InputError

# By how much a probability may differ: kernels chosen for another batch or memory layout round in another order, which
# costs about 1e-6; a lost BatchNorm, feature transform or pixel scale costs far more than 1e-2.
TOLERANCE = 1e-5
PROBES = 7  # images of each kind; with one alone that makes two sizes of batch
DESCRIPTION = "model.json"


class Program(nn.Module):
    """What `Predictor.predict` does to decoded images, as a module that torch.export can trace.

    Args:
        predictor: is copied to the CPU.
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor | None

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = deepcopy(predictor.network).cpu().freeze()
        del self.network.classifier  # it would be stored, and nothing calls it
        classifier = predictor.classifier
        self.power, self.unit_norm = classifier.power, classifier.unit_norm
        for name in ("weight", "bias", "centre"):  # buffers move with the program to another device
            tensor = getattr(classifier, name)
            self.register_buffer(name, None if tensor is None else tensor.detach().cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) uint8 to probabilities (B, K) float32."""
        features = self._powered(self.network.features(images.float().div(255)))
        rest = Classifier(self.weight, self.bias, centre=self.centre, unit_norm=self.unit_norm)
        return rest(features).softmax(1)

    def _powered(self, features: Tensor) -> Tensor:
        """Raise features (B, D) to the power, as `tukey` does, but without its check, which cannot be traced."""
        if self.power == 1:
            return features
        return (features + 1e-6).log() if self.power == 0 else features**self.power


def export(predictor: Predictor, path: Path, examples: Sequence[bytes] = ()) -> Path:
    """Write the model as a program, load it back, and keep it if it says what the model says.

    Args:
        path: a file that ends in .pt2, replaced if it exists; or a folder, which gets exported.pt2.
        examples: encoded images to check it on, besides noise, ramps, black and white.

    Returns:
        The file.

    Raises:
        InputError: the name does not end in .pt2, there is no such folder, an example cannot be read, or the program
            differs from the model by more than `TOLERANCE`; then nothing is written.
    """
    file = path / "exported.pt2" if path.is_dir() else path
    _check_name(file)
    channels, size = predictor.description.channels, predictor.description.image_size
    encoded = [*examples, *(encode_png(image) for image in _probes(channels, size))]
    expected = predictor.predict(encoded)
    images = torch.stack([decode_bytes(image, channels, size) for image in encoded])
    exact = torch.autocast("cpu", enabled=False)
    with exact, torch.no_grad(), tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as scratch:
        written = Path(scratch) / file.name
        _save(predictor, written, images[:2])
        _check(written, images, expected)
        written.replace(file)
    return file


def _check_name(file: Path) -> None:
    if file.suffix != ".pt2":
        raise InputError(f"{file} does not end in .pt2, the ending by which torch knows its programs; name it so.")
    if not file.parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no folder {file.parent}. Make it.")


def _probes(channels: int, size: int) -> Tensor:
    """Draw what any model takes: noise of growing contrast, ramps in either direction, black and white.

    Args:
        channels: 1 or 3.
        size: side in pixels.

    Returns:
        (N, channels, size, size) uint8.
    """
    draws = torch.rand(PROBES, channels, size, size, generator=generator(0, "export"))
    contrast = torch.linspace(0.1, 1, PROBES).view(-1, 1, 1, 1)
    ramp = torch.linspace(0, 1, size).expand(channels, size, size)
    others = torch.stack([ramp, ramp.mT, torch.zeros_like(ramp), torch.ones_like(ramp)])
    return torch.cat([0.5 + contrast * (draws - 0.5), others]).mul(255).round().byte()


def _save(predictor: Predictor, file: Path, images: Tensor) -> None:
    description = predictor.description
    described = {
        "classes": description.classes,
        "channels": description.channels,
        "image_size": description.image_size,
    }
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Program(predictor), (images,), dynamic_shapes=any_batch)
    torch.export.save(program, file, extra_files={DESCRIPTION: json.dumps(described)})


def _check(file: Path, images: Tensor, expected: Tensor) -> None:
    program = torch.export.load(file).module()
    for chosen in (slice(None), slice(0, 1)):
        apart = float((program(images[chosen]) - expected[chosen]).abs().max())
        if not apart <= TOLERANCE:  # so that NaN is refused too
            raise InputError(
                f"The exported program's probabilities differ from the model's by up to {apart:.1g}, more than "
                f"{TOLERANCE:g}, with torch {torch.__version__}; nothing was written. Export it with the torch that "
                "the model was trained with."
            )
