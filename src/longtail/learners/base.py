"""What every learner is: a way to turn batches into the scalar that stage one minimises."""

from abc import abstractmethod
from typing import ClassVar

from longtail.models.network import Network
from longtail.spec import Member
from longtail.training.loop import Step
from longtail.training.objective import Objective


class LearnerSpec(Member):
    """A learner of the union `Learner`.

    Attributes:
        batches: how many samplers its row lists: each step has one batch of each.
        needs_start: whether its row starts from the weights of another row.
        trains_afresh: whether those weights are only looked at (M2m's seed network) while the network that is trained
            starts fresh.
        several_devices: whether several devices, each with its share of a batch, compute what one does; not where a
            step looks at a batch as a whole.
    """

    batches: ClassVar[int] = 1
    needs_start: ClassVar[bool] = False
    trains_afresh: ClassVar[bool] = False
    several_devices: ClassVar[bool] = False

    @property
    def varies_from(self) -> int | None:
        """Return the first network stage whose batches vary in size; None where none do."""
        return None

    @abstractmethod
    def step_for(self, network: Network, objective: Objective) -> Step:
        """Return the module that `fit` trains: `step(*batches, progress=, generator=)` is the scalar to minimise.

        Raises:
            InputError: the network or the classes are none that this learner can work with.
        """
