"""What every balancer is: a way to set the classifier of a trained network."""

from abc import abstractmethod

from torch import Tensor

from longtail.features.bank import FeatureBank
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.spec import Member
from longtail.training.loop import History, Run


class BalancerSpec(Member):
    """A balancer of the union `Balancer`."""

    def without_validation(self) -> str | None:
        """Return what to change where there are no validation images; None if nothing needs any."""
        return None

    @abstractmethod
    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Set the classifier.

        Args:
            bank: features and statistics of the network on the split.
            network: frozen and in eval mode.
            run: where and how, with the training seed.

        Returns:
            The classifier, and one row per epoch of what was trained; without training none or one.

        Raises:
            InputError: bank, network or split are none that this balancer can work with.
        """

    def generated(self, bank: FeatureBank, history: list[History], run: Run) -> dict[str, Tensor] | None:
        """Draw examples of the features that `fit` has generated, to look at; None where it generates none.

        Returns:
            `features` (M, D) float16 in the space of the bank and `labels` (M,) int64.
        """
        return None
