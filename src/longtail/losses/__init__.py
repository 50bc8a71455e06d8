"""The losses. Adding one is a file here and a word in `Loss`."""

from typing import Annotated

from pydantic import Field

from longtail.losses.am_softmax import AMSoftmax
from longtail.losses.balanced_softmax import BalancedSoftmax
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.focal import Focal
from longtail.losses.gradual_balanced import GradualBalanced
from longtail.losses.ldam import LDAM
from longtail.losses.logit_adjusted import LogitAdjusted

Loss = Annotated[
    CrossEntropy | Focal | LDAM | AMSoftmax | BalancedSoftmax | LogitAdjusted | GradualBalanced,
    Field(discriminator="name"),
]
