"""Stage one: ways to learn a representation. Adding one is a file here and a word in `Learner`."""

from typing import Annotated

from pydantic import Field

from longtail.learners.bbn import BBN
from longtail.learners.cam_bs import CamBS
from longtail.learners.cmo import CMO
from longtail.learners.csa import CSA
from longtail.learners.m2m import M2m
from longtail.learners.mixup import Mixup
from longtail.learners.plain import Plain
from longtail.learners.remix import Remix
from longtail.learners.rsg import RSG

Learner = Annotated[Plain | BBN | CamBS | CMO | CSA | M2m | Mixup | Remix | RSG, Field(discriminator="name")]
