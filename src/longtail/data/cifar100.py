"""CIFAR-100: 32 × 32 colour photographs of 100 classes, 500 training images per class, 10,000 test images.

Source    Krizhevsky, "Learning multiple layers of features from tiny images", 2009
"""

from typing import Literal

from longtail.data.pools import Pools
from longtail.data.subset import Cut
from longtail.data.torchvision_sets import cifar_pools


class Cifar100(Cut):
    """CIFAR-100 as torchvision reads it.

    Args:
        path: folder that holds or gets the files; also looked for: $LONGTAIL_DATA and data/raw.
        download: whether missing files may be fetched.
    """

    name: Literal["cifar100"] = "cifar100"
    download: bool

    def pools(self) -> Pools:
        """Read the official files.

        Raises:
            InputError: they are missing or damaged, or cannot be downloaded.
        """
        from torchvision.datasets import CIFAR100  # here, since importing torchvision takes a second

        return cifar_pools(CIFAR100, self.path, self.download)
