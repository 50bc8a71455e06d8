"""Fashion-MNIST: 28 × 28 grey pictures of clothes, 10 classes of 6,000 training and 1,000 test images.

The smallest class of the train pool is the n_max of a profile (6,000).

Source    Xiao et al., 2017, arXiv:1708.07747
"""

from typing import Literal

from longtail.data.pools import Pools
from longtail.data.subset import Cut
from longtail.data.torchvision_sets import mnist_pools

MEAN, STD = 0.2860, 0.3530  # of all training pixels


class FashionMnist(Cut):
    """Fashion-MNIST as torchvision reads it.

    Args:
        path: folder that holds or gets the files; also looked for: $LONGTAIL_DATA and data/raw.
        download: whether missing files may be fetched.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"
    download: bool

    def pools(self) -> Pools:
        """Read the official files.

        Raises:
            InputError: they are missing or damaged, or cannot be downloaded.
        """
        from torchvision.datasets import FashionMNIST  # here, since importing torchvision takes a second

        return mnist_pools(FashionMNIST, self.path, self.download, MEAN, STD)
