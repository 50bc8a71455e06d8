"""Stage two: ways to balance the classifier. Adding one is a file here and a word in `Balancer`."""

from typing import Annotated

from pydantic import Field

from longtail.balancers.crt import CRT
from longtail.balancers.glag import GLAG
from longtail.balancers.keep import Keep
from longtail.balancers.tau_norm import TauNorm

Balancer = Annotated[Keep | CRT | TauNorm | GLAG, Field(discriminator="name")]
