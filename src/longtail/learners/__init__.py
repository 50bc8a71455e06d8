"""Stage one: ways to learn a representation. Adding one is a file here and a word in `Learner`."""

from typing import Annotated

from pydantic import Field

from longtail.learners.csa import CSA
from longtail.learners.plain import Plain

Learner = Annotated[CSA | Plain, Field(discriminator="name")]
