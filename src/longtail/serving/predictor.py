"""From encoded images to probabilities: what is logged, loaded and served, without MLflow and without the training."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from PIL import Image
from torch import Tensor

from longtail.images.labeled import ImageFiles, LabeledImages
from longtail.loading.batches import decode_bytes
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.models.saved import NetworkDescription, save_weights
from longtail.spec import InputError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

BATCH = 64  # images decoded at a time; bounds the memory
WEIGHTS, CLASSIFIER = "weights.safetensors", "classifier.safetensors"


@dataclass(frozen=True)
class Predictor:
    """A trained network with the classifier that stage two gave it.

    Args:
        description: the network's shape, its images and class names.
        network: in eval mode, frozen, with the classifier's BatchNorm statistics where it brings any.
        classifier: replaces the network's own.
    """

    description: NetworkDescription
    network: Network
    classifier: Classifier

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.description.classes

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` or `gather` wrote."""
        description = NetworkDescription.load(folder)
        network, classifier = description.load_weights(folder / WEIGHTS), Classifier.load(folder / CLASSIFIER)
        return cls(description, network.with_statistics(classifier.statistics or {}).freeze(), classifier)

    def save(self, folder: Path) -> None:
        """Write network.json, weights.safetensors and classifier.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        self.description.save(folder)
        save_weights(self.network, folder / WEIGHTS)
        self.classifier.save(folder / CLASSIFIER)

    @torch.inference_mode()
    def predict(self, encoded: Sequence[bytes]) -> Tensor:
        """Return class probabilities (B, K) float32 of B encoded images of any format, size and mode.

        Raises:
            InputError: if an image cannot be read; it says which.
        """
        parts = [self._probabilities(encoded, start) for start in range(0, len(encoded), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes))

    def _probabilities(self, encoded: Sequence[bytes], start: int) -> Tensor:
        device = next(self.network.parameters()).device
        chosen = range(start, min(start + BATCH, len(encoded)))
        images = torch.stack([self._decode(encoded, i) for i in chosen]).to(device)
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = self.classifier(self.network.features(images.float().div(255)))
        return logits.softmax(1).cpu()

    def _decode(self, encoded: Sequence[bytes], i: int) -> Tensor:
        try:
            return decode_bytes(encoded[i], self.description.channels, self.description.image_size)
        except (InputError, TypeError) as error:
            raise InputError(f"image {i} (of {len(encoded)}, counted from 0) cannot be read: {error}") from None


def gather(representation: Path, method: Path, seed: int, folder: Path) -> None:
    """Copy the three files that `Predictor.load` reads out of stage outputs.

    Args:
        representation: models/<representation>.
        method: classifiers/<method>.
        folder: is made.
    """
    folder.mkdir(parents=True)
    shutil.copy(representation / "network.json", folder)
    shutil.copy(representation / f"seed_{seed}" / WEIGHTS, folder)
    shutil.copy(method / f"seed_{seed}" / CLASSIFIER, folder)


def example_image(images: LabeledImages) -> bytes:
    """Return the first image encoded: its own file, or a PNG of its pixels."""
    if isinstance(images.images, ImageFiles):
        return (images.images.root / images.images.paths[0]).read_bytes()
    return encode_png(images.images[0])


def encode_png(image: Tensor) -> bytes:
    """Encode pixels (C, H, W) uint8, C = 1 or 3, as PNG."""
    pixels = image.squeeze(0) if len(image) == 1 else image.permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    return file.getvalue()


class Served:
    """The predictor as MLflow wants it: a table with a column `image` in, a table with a column per class out."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return probabilities, one row per image and one column per class name."""
        import pandas as pd  # comes with MLflow; nothing else here needs it

        probabilities = self.predictor.predict(table["image"].tolist()).double().numpy()
        return pd.DataFrame(probabilities, columns=list(self.predictor.classes), index=table.index)


def _load_pyfunc(path: str) -> Served:
    """Load what MLflow logged; MLflow calls this function by its name."""
    return Served(Predictor.load(Path(path)))
