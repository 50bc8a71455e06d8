"""The handwritten digits inside scikit-learn: 1,797 grey 8 × 8 images of ten classes. Nothing to download.

The file has no test part, so the last images of each class after a shuffle that never changes are the test set. (In
file order the images of one writer lie together; without the shuffle a test would measure new writers more than rare
classes.) With 30 test images per class the smallest class has 144 left, and that is the n_max of a profile.

Source    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (its test file)
Differs   intensities 0..16 are stretched to 0..255, like the pixels of every other source
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from longtail.data.pools import Pools, index_key, official, take
from longtail.data.subset import Cut
from longtail.spec import InputError

MEAN, STD = 0.3052, 0.3757  # of the 1,497 images that 30 test images per class leave for training


class Digits(Cut):
    """scikit-learn's digits.

    Args:
        path: not read, since the images come with scikit-learn; dvc.yaml names it for every source.
        test_per_class: so many images of each class are the test set.
    """

    name: Literal["digits"] = "digits"
    test_per_class: int = Field(ge=1)

    def pools(self) -> Pools:
        """Read the images that scikit-learn ships.

        Raises:
            InputError: the test set would take a whole class.
        """
        from sklearn.datasets import load_digits  # here, since importing scikit-learn takes a second

        data = load_digits()
        images = torch.from_numpy(np.round(data.images * (255 / 16)).astype(np.uint8))[:, None]
        whole = official(images, data.target, 10, "digits")
        shuffled = torch.from_numpy(np.random.RandomState(0).permutation(len(whole)))
        by_class = [shuffled[whole.labels[shuffled] == label] for label in range(10)]
        smallest = min(len(indices) for indices in by_class)
        if smallest <= self.test_per_class:
            raise InputError(
                f"data.test_per_class is {self.test_per_class}, which leaves none of a class's {smallest} images to "
                f"train on; choose at most {smallest - 1}."
            )
        train = torch.cat([indices[: -self.test_per_class] for indices in by_class]).sort().values
        test = torch.cat([indices[-self.test_per_class :] for indices in by_class]).sort().values
        keys = [index_key(index) for index in train.tolist()]
        classes = tuple(str(label) for label in range(10))
        return Pools(take(whole, train), None, take(whole, test), classes, (MEAN,), (STD,), keys, None)
