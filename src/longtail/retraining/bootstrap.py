"""Two models' answers to the same images, and how much their difference could be chance.

The interval is the percentile interval of a paired bootstrap, stratified by class: each class's images are drawn with
replacement, as many as it has, and both models answer the same draw. Only c = (challenger right) - (champion
right) in {-1, 0, 1} of an image enters, so how often each value is drawn among a class's n images is multinomial with
n trials and the observed shares: drawing those counts is the same bootstrap, exactly, without touching an image.

Source    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (percentile) and 8 (several samples)
Differs   none. As every bootstrap it is too narrow by sqrt((n - 1) / n) for n images per class, and a class of one
          image does not vary at all
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longtail.retraining.decision import ClassRow
from longtail.seeding import derive

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What one model says of the held-out images.

    Args:
        classes: K >= 2 names.
        probabilities: (N, K).
    """

    classes: tuple[str, ...]
    probabilities: Tensor

    def __post_init__(self) -> None:
        assert self.probabilities.ndim == 2, self.probabilities.shape
        assert self.probabilities.shape[1] == len(set(self.classes)) == len(self.classes) >= 2, self.classes

    def right(self, truth: Sequence[str]) -> list[bool]:
        """Say for each of the N images whether the most probable class is the true one."""
        answered = self.probabilities.argmax(1).tolist()
        return [self.classes[k] == name for k, name in zip(answered, truth, strict=True)]


@dataclass(frozen=True)
class Pairs:
    """Both models on the C classes that they share and that have images, in the order of their names.

    Args:
        names: C.
        accuracies: (2, C) of champion and challenger.
        outcomes: (C, 3) images of a class whose c is -1, 0 and 1.
    """

    names: tuple[str, ...]
    accuracies: Floats
    outcomes: Counts

    def among(self, classes: Collection[str]) -> Bools:
        """Return (C,) which of the classes are among `classes`."""
        wanted = set(classes)
        return np.array([name in wanted for name in self.names], dtype=bool)


def class_rows(champion: Answers, challenger: Answers, truth: Sequence[str]) -> dict[str, ClassRow]:
    """Return the number of images and both accuracies of every class of a model, in the order of the names."""
    images, accuracies = Counter(truth), (_accuracies(champion, truth), _accuracies(challenger, truth))
    names = sorted({*champion.classes, *challenger.classes})
    return {name: (images[name], accuracies[0].get(name), accuracies[1].get(name)) for name in names}


def pair(champion: Answers, challenger: Answers, truth: Sequence[str]) -> Pairs:
    """Pair the answers to the images of the classes that they share."""
    first, second = _accuracies(champion, truth), _accuracies(challenger, truth)
    names = sorted(first.keys() & second.keys())
    index = {name: k for k, name in enumerate(names)}
    outcomes = np.zeros((len(names), 3), dtype=np.int64)
    for name, before, after in zip(truth, champion.right(truth), challenger.right(truth), strict=True):
        if name in index:
            outcomes[index[name], 1 + after - before] += 1
    accuracies = np.array([[row[name] for name in names] for row in (first, second)])
    return Pairs(tuple(names), accuracies, outcomes)


def resampled_gains(outcomes: Counts, sets: Mapping[str, Bools], resamples: int, seed: int) -> dict[str, Floats]:
    """Draw the bootstrap: for each set of classes, the mean of its classes' gains in accuracy.

    Args:
        outcomes: (C, 3) images of a class whose c is -1, 0 and 1; each class has at least one image.
        sets: name -> (C,) which classes; at least one in each.

    Returns:
        name -> (resamples,); within a resample all sets see the same draw.
    """
    draws = np.random.default_rng(derive(seed, "gate"))
    sums = {name: np.zeros(resamples) for name in sets}
    for k, counts in enumerate(outcomes):  # class by class: thousands of classes at once would take gigabytes
        images = int(counts.sum())
        drawn = draws.multinomial(images, counts / images, size=resamples)
        for name, members in sets.items():
            if members[k]:
                sums[name] += (drawn[:, 2] - drawn[:, 0]) / images
    return {name: total / sets[name].sum() for name, total in sums.items()}


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def _accuracies(answers: Answers, truth: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of each class that the model has and that has images."""
    images = Counter(truth)
    hits = Counter(name for name, right in zip(truth, answers.right(truth), strict=True) if right)
    return {name: hits[name] / images[name] for name in answers.classes if images[name]}
