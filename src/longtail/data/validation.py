"""Where validation images come from. Never from the test set: a method may adapt to them (GLAG's beta does).

    unused     the images that the profile left over, next in the same shuffled stream: extra labelled data, but few and
               disclosed; the largest class has none left
    holdout    max(1, round(0.1 n_k)) of the training images of every class with at least 5, none of smaller ones
    official   the validation images that the source comes with

Source    ours; `unused` imitates the 20 validation images per class of ImageNet-LT (Liu et al., CVPR 2019)
"""

from typing import Literal

from pydantic import Field

from longtail.spec import Spec

SMALLEST_CLASS = 5  # a class with fewer images keeps them all for training


class Validation(Spec):
    """Which images validate.

    Args:
        per_class: at most so many per class; 0 leaves the validation set empty.
    """

    source: Literal["unused", "holdout", "official"]
    per_class: int = Field(ge=0)


def holdout_size(images: int, per_class: int) -> int:
    """Return how many of a class's training images are held out: a tenth, at least one, at most per_class."""
    if images < SMALLEST_CLASS:
        return 0
    return min(per_class, max(1, round(0.1 * images)))
