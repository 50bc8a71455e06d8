"""Stage two: ways to balance the classifier. Adding one is a file here and a word in `Balancer`."""

from typing import Annotated

from pydantic import Field

from longtail.balancers.crt import CRT
from longtail.balancers.glag import GLAG
from longtail.balancers.keep import Keep
from longtail.balancers.logit_adjustment import LogitAdjustment
from longtail.balancers.lws import LWS
from longtail.balancers.mislas import MiSLAS
from longtail.balancers.ncm import NCM
from longtail.balancers.ofa import OFA
from longtail.balancers.tau_norm import TauNorm

Balancer = Annotated[
    Keep | CRT | LWS | TauNorm | LogitAdjustment | NCM | MiSLAS | OFA | GLAG, Field(discriminator="name")
]
