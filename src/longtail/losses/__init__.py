"""The losses. Adding one is a file here and a word in `Loss`."""

from typing import Annotated

from pydantic import Field

from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.gradual_balanced import GradualBalanced

Loss = Annotated[CrossEntropy | GradualBalanced, Field(discriminator="name")]
