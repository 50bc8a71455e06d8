"""Two models on the same held-out images, each as it is served: the image's own bytes in, probabilities out."""

from collections.abc import Sequence
from pathlib import Path

import torch

from longtail.data.own_images import path_of
from longtail.evaluation import EvaluationSpec
from longtail.images.labeled import LongTailSplit
from longtail.retraining.gate import Answers, Decision, Gate, judge
from longtail.serving.predictor import Predictor
from longtail.spec import InputError

CHUNK = 1024  # images whose bytes are held at a time


def compare(
    gate: Gate,
    evaluation: EvaluationSpec,
    champion: Predictor,
    challenger: Predictor,
    split: LongTailSplit,
    folder: Path,
    seed: int,
) -> Decision:
    """Judge a challenger on the test images of the split that it was trained on.

    Args:
        evaluation: which classes are many-, medium- and few-shot, by today's training images.
        split: of own images.
        folder: the images.
        seed: of the bootstrap.

    Raises:
        InputError: there is no test image, an image cannot be read, or the gate cannot compare the two.
    """
    if not len(split.test):
        raise InputError("The data has no held-out images, so no model can be judged. Set data.test_per_class to 20.")
    masks = evaluation.groups(split.class_counts)
    groups = {name: {split.classes[k] for k in mask.nonzero().flatten().tolist()} for name, mask in masks.items()}
    truth = [split.classes[label] for label in split.test.labels.tolist()]
    ours, theirs = (answers_of(predictor, split.test.ids, folder) for predictor in (champion, challenger))
    return judge(gate, ours, theirs, truth, groups, seed)


def answers_of(predictor: Predictor, ids: Sequence[str], folder: Path) -> Answers:
    """Let a model predict own images.

    Raises:
        InputError: an image cannot be read.
    """
    parts = []
    for start in range(0, len(ids), CHUNK):
        paths = [folder / path_of(image_id) for image_id in ids[start : start + CHUNK]]
        parts.append(predictor.predict([_read(path) for path in paths]))
    return Answers(predictor.classes, torch.cat(parts))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); restore the file, or start over.") from None
