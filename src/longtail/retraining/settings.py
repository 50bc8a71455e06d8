"""What `python -m pipelines.retrain` trains every night, and what a model must meet before it is served."""

from typing import Annotated

from pydantic import Field

from longtail.retraining.gate import Gate
from longtail.spec import Spec

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # a registered model, a folder, a git tag


class Retraining(Spec):
    """The nightly model.

    Args:
        name: of the registered model in MLflow.
        method: a row of `methods`; with its representation it is all that is trained.
        seed: the training seed; one of `seeds` or another.
        classes_may_vanish: false refuses data in which a class of the serving model has no image left.
        git_remote: where the tags of promoted models are pushed to, such as origin; null keeps them in this repository.
        gate: what a new model must hold against the one that is served.
    """

    name: ModelName
    method: str
    seed: int = Field(ge=0)
    classes_may_vanish: bool
    git_remote: str | None
    gate: Gate
