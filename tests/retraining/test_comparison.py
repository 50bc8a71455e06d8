"""Both models answer the same files, as they are served; groups are those of today's training images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from longtail.evaluation import EvaluationSpec
from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.models.classifier import Classifier
from longtail.retraining import comparison as held_out
from longtail.retraining.comparison import answers_of, compare
from longtail.retraining.gate import Allowances, Gate
from longtail.serving.predictor import Predictor, encode_png
from longtail.spec import InputError
from predictors import make_predictor

GATE = Gate(
    minimum_gain=0.0,
    confidence=0.9,
    resamples=200,
    allowances=Allowances(many=0.0, medium=0.0, few=0.0, classes={}),
    calibration=1.0,
    new_classes=0.0,
)
EVALUATION = EvaluationSpec(many_above=10, few_below=4, index_ranges=None)  # of 20, 12, 7, 3, 1 images


@pytest.fixture
def split(tmp_path: Path) -> LongTailSplit:
    """The tiny split, its test images as files in folders."""
    made = tiny.make_split()
    assert isinstance(made.test.images, torch.Tensor)
    ids = []
    for i, (image, label) in enumerate(zip(made.test.images, made.test.labels.tolist(), strict=True)):
        path = Path(made.classes[label]) / f"{i} of them.png"
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(encode_png(image))
        ids.append(f"{i:064x} {path}")
    return replace(made, test=replace(made.test, ids=ids))


def blind_to(predictor: Predictor, label: int) -> Predictor:
    """Never answer with a class."""
    weight, bias = predictor.classifier.weight.clone(), predictor.classifier.bias.clone()
    weight[label], bias[label] = 0, -1e4
    return replace(predictor, classifier=Classifier(weight, bias))


def always(predictor: Predictor, labels: LabeledImages) -> Predictor:
    """Answer as well as a linear classifier fitted to the test images can: the better one of two."""
    from sklearn.linear_model import LogisticRegression

    assert isinstance(labels.images, torch.Tensor)
    features = predictor.network.features(labels.images.float() / 255).detach().numpy()
    fitted = LogisticRegression(C=1e6, max_iter=5000).fit(features, labels.labels.numpy())
    weight, bias = torch.tensor(fitted.coef_).float(), torch.tensor(fitted.intercept_).float()
    return replace(predictor, classifier=Classifier(weight, bias))


def test_answers_are_those_to_the_files_in_their_order(
    split: LongTailSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = make_predictor(split)
    monkeypatch.setattr(held_out, "CHUNK", 3)  # 20 images: the last chunk is smaller
    got = answers_of(predictor, split.test.ids, tmp_path)
    files = [tmp_path / image.split(" ", 1)[1] for image in split.test.ids]
    torch.testing.assert_close(got.probabilities, predictor.predict([file.read_bytes() for file in files]))
    assert got.classes == split.classes


def test_the_group_that_fell_is_found_by_training_counts(split: LongTailSplit, tmp_path: Path) -> None:
    good = always(make_predictor(split), split.test)
    same = compare(GATE, EVALUATION, good, good, split, tmp_path, 0)
    assert same.promote and {check.name for check in same.checks} >= {"overall", "many", "medium", "few"}
    for label, group in ((0, "many"), (2, "medium"), (4, "few")):
        decision = compare(GATE, EVALUATION, good, blind_to(good, label), split, tmp_path, 0)
        failed = {check.name for check in decision.checks if not check.passed}
        assert not decision.promote and group in failed and not failed & ({"many", "medium", "few"} - {group})


def test_the_better_one_is_promoted(split: LongTailSplit, tmp_path: Path) -> None:
    good = always(make_predictor(split), split.test)
    decision = compare(GATE, EVALUATION, blind_to(good, 1), good, split, tmp_path, 0)
    assert decision.promote


def test_an_image_that_is_gone_and_an_empty_test_set_are_refused(split: LongTailSplit, tmp_path: Path) -> None:
    predictor = make_predictor(split)
    empty = replace(split, test=LabeledImages(torch.empty(0, 3, 8, 8), torch.empty(0, dtype=torch.int64), 5, []))
    with pytest.raises(InputError, match=r"no held-out images.*data\.test_per_class"):
        compare(GATE, EVALUATION, predictor, predictor, empty, tmp_path, 0)
    (tmp_path / split.test.ids[7].split(" ", 1)[1]).unlink()
    with pytest.raises(InputError, match=r"7 of them\.png cannot be read \(No such file or directory\); restore"):
        compare(GATE, EVALUATION, predictor, predictor, split, tmp_path, 0)
