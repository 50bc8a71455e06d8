"""A network on disk: what it takes to rebuild it, and its weights."""

from pathlib import Path
from typing import Self

from safetensors.torch import load_model, save_model

from longtail.images.labeled import ImageFiles, LongTailSplit
from longtail.models import NetworkSpec, build_network
from longtail.models.network import Network
from longtail.spec import Spec


class NetworkDescription(Spec):
    """Everything that a network's shape follows from.

    Args:
        network: backbone and classifier.
        channels: of its images.
        image_size: their side in pixels.
        classes: K class names in label order.
        mean, std: per channel, of pixels in [0, 1].
    """

    network: NetworkSpec
    channels: int
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, network: NetworkSpec, split: LongTailSplit) -> Self:
        """Describe the network for a split's images and classes."""
        images = split.train.images
        channels, size = (3, images.size) if isinstance(images, ImageFiles) else (images.shape[1], images.shape[2])
        return cls(
            network=network, channels=channels, image_size=size, classes=split.classes, mean=split.mean, std=split.std
        )

    def build(self, seed: int) -> Network:
        """Build the network with fresh weights."""
        return build_network(
            self.network,
            channels=self.channels,
            image_size=self.image_size,
            num_classes=len(self.classes),
            mean=self.mean,
            std=self.std,
            seed=seed,
        )

    def scaled(self, factor: float) -> Self:
        """Return the description with `factor` times the classifier's scale."""
        network = self.network.model_copy(update={"scale": factor * self.network.scale})
        return self.model_copy(update={"network": network})

    def save(self, folder: Path) -> None:
        """Write network.json."""
        (folder / "network.json").write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read network.json."""
        return cls.model_validate_json((folder / "network.json").read_text())

    def load_weights(self, path: Path) -> Network:
        """Rebuild the network and read its weights."""
        # Weights that would be fetched (`network.weights`) are about to be overwritten: build without them.
        bare = self.model_copy(update={"network": self.network.model_copy(update={"weights": None})})
        network = bare.build(0)
        load_model(network, path)
        return network


def save_weights(network: Network, path: Path) -> None:
    """Write the weights of a network as safetensors, with contiguous tensors so that equal weights are equal bytes."""
    save_model(network.cpu(), str(path), force_contiguous=True)
