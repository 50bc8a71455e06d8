"""Keep: the classifier of stage one, as it is. End-to-end methods are those whose stage two is this.

Source    joint training in the terms of Kang et al., ICLR 2020, arXiv:1910.09217
Differs   nothing
Limits    every other balancer becomes this one when its own parts are switched off
"""

from typing import Literal

from longtail.balancers.base import BalancerSpec
from longtail.features.bank import FeatureBank
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.network import Network
from longtail.training.loop import History, Run


class Keep(BalancerSpec):
    """Return the network's own classifier."""

    name: Literal["keep"] = "keep"

    def fit(
        self, bank: FeatureBank, network: Network, split: LongTailSplit, run: Run
    ) -> tuple[Classifier, list[History]]:
        """Export the classifier; nothing is trained, so the history is empty."""
        return network.classifier.export(), []
