"""MNIST: 28 × 28 grey handwritten digits, 60,000 training images (5,421 to 6,742 per class), 10,000 test images.

The smallest class of the train pool is the n_max of a profile (5,421).

Source    LeCun et al., Proc. IEEE 86, 1998
"""

from typing import Literal

from longtail.data.pools import Pools
from longtail.data.subset import Cut
from longtail.data.torchvision_sets import mnist_pools

MEAN, STD = 0.1307, 0.3081  # of all training pixels


class Mnist(Cut):
    """MNIST as torchvision reads it.

    Args:
        path: folder that holds or gets the files; also looked for: $LONGTAIL_DATA and data/raw.
        download: whether missing files may be fetched.
    """

    name: Literal["mnist"] = "mnist"
    download: bool

    def pools(self) -> Pools:
        """Read the official files.

        Raises:
            InputError: they are missing or damaged, or cannot be downloaded.
        """
        from torchvision.datasets import MNIST  # here, since importing torchvision takes a second

        return mnist_pools(MNIST, self.path, self.download, MEAN, STD)
