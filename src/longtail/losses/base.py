"""What every loss is: a number per sample, and how class weights enter it."""

from abc import abstractmethod

from torch import Tensor

from longtail.spec import Member


class LossSpec(Member):
    """A loss of the union `Loss`: formula and numbers, without state."""

    @property
    def logit_scale(self) -> float:
        """Return what the loss multiplies bare cosines by; the trained classifier keeps it, for its probabilities."""
        return 1.0

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor) -> Tensor:
        """Return the loss per sample.

        Args:
            logits: (B, K).
            labels: (B,) int64 in [0, K).
            class_counts: (K,) training images per class.
            progress: 0-d, share of training done in [0, 1).

        Returns:
            (B,) in nats, float32 or wider.
        """

    def weighted(
        self, logits: Tensor, labels: Tensor, class_counts: Tensor, progress: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the loss per sample with its class's weight: their product, unless the formula says otherwise.

        Args:
            weights: (B,) of the samples' classes; the other arguments and the result are those of the loss itself.
        """
        return weights * self(logits, labels, class_counts, progress)
