"""From encoded images to probabilities: what `evaluate` found, whatever the images' format."""

import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tiny
from longtail.data.split import build_split
from longtail.images.labeled import ImageFiles, LabeledImages, LongTailSplit
from longtail.models.classifier import Classifier
from longtail.models.saved import save_weights
from longtail.params import load_params
from longtail.serving.predictor import BATCH, Predictor, Served, encode_png, example_image, gather
from longtail.spec import InputError
from longtail.training.inference import features_of
from predictors import PARAMS, make_predictor

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")


@cache
def tiny_predictor() -> Predictor:
    """Build one predictor for all examples of hypothesis, which takes no function-scoped fixture."""
    return make_predictor(tiny.make_split())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> LongTailSplit:
    """The split of real handwritten digits."""
    return build_split(load_params(PARAMS).data, tmp_path_factory.mktemp("digits") / "assignment.csv")


def encode(pixels: np.ndarray, mode: str, file_format: str) -> bytes:
    image = Image.fromarray(pixels.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, format=file_format)
    return file.getvalue()


def test_encoded_test_images_get_the_probabilities_that_evaluate_computes(digits: LongTailSplit) -> None:
    predictor = make_predictor(digits)
    features = torch.cat(list(features_of(predictor.network, digits.test, torch.device("cpu"))))
    evaluated = predictor.classifier(features).softmax(1)[:100]
    assert isinstance(digits.test.images, torch.Tensor)
    predicted = predictor.predict([encode_png(image) for image in digits.test.images[:100]])
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted, evaluated, atol=1e-5, rtol=0)
    assert evaluated.std(0).max() > 1e-3, "a test on constant probabilities would say nothing"


@given(
    st.sampled_from(MODES), st.sampled_from(["PNG", "TIFF"]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)
)
def test_any_format_size_and_mode_gives_a_distribution(
    mode: str, file_format: str, width: int, height: int, seed: int
) -> None:
    file_format = "TIFF" if mode == "CMYK" else file_format
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    probabilities = tiny_predictor().predict([encode(pixels, mode, file_format)])
    assert probabilities.shape == (1, 5)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1))


def test_an_image_does_not_depend_on_its_neighbours(tiny_split: LongTailSplit) -> None:
    predictor = make_predictor(tiny_split)
    images = tiny_split.train.images
    assert isinstance(images, torch.Tensor)
    encoded = [encode_png(images[i % len(images)]) for i in range(2 * BATCH + 3)]
    alone = torch.cat([predictor.predict([image]) for image in encoded])
    torch.testing.assert_close(predictor.predict(encoded), alone, atol=1e-5, rtol=0)


def test_no_images_give_no_rows(tiny_split: LongTailSplit) -> None:
    assert make_predictor(tiny_split).predict([]).shape == (0, 5)


def test_autocast_around_it_changes_nothing(tiny_split: LongTailSplit) -> None:
    predictor = make_predictor(tiny_split)
    encoded = [example_image(tiny_split.test)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = predictor.predict(encoded)
    assert torch.equal(inside, predictor.predict(encoded))


@pytest.mark.parametrize("broken", [b"", b"not an image", "truncated"])
def test_an_unreadable_image_is_named(tiny_split: LongTailSplit, broken: bytes | str) -> None:
    good = example_image(tiny_split.test)
    bad = good[: len(good) // 2] if isinstance(broken, str) else broken
    with pytest.raises(InputError, match=r"image 1 \(of 3"):
        make_predictor(tiny_split).predict([good, bad, good])


def test_what_is_no_bytes_at_all_is_refused_too(tiny_split: LongTailSplit) -> None:
    with pytest.raises(InputError, match="image 0 "):
        make_predictor(tiny_split).predict([None])  # type: ignore[list-item]


def test_saved_and_loaded_it_predicts_the_same(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    predictor, encoded = make_predictor(tiny_split), [example_image(tiny_split.test)]
    predictor.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved")
    assert loaded.classes == tiny_split.classes
    # Not the same bits: weights mapped from a file are aligned differently, and torch picks its kernels by that.
    torch.testing.assert_close(loaded.predict(encoded), predictor.predict(encoded), atol=1e-6, rtol=0)


def test_statistics_that_a_classifier_brings_are_the_networks(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    plain, encoded = make_predictor(tiny_split), [example_image(tiny_split.test)]
    statistics = {n: v / 4 for n, v in plain.network.state_dict().items() if n.endswith("running_var")}
    assert statistics
    shifted = Predictor(plain.description, plain.network, replace(plain.classifier, statistics=statistics))
    shifted.save(tmp_path / "saved")
    loaded = Predictor.load(tmp_path / "saved")
    expected = Predictor(plain.description, plain.network.with_statistics(statistics), plain.classifier)
    torch.testing.assert_close(loaded.predict(encoded), expected.predict(encoded), atol=1e-6, rtol=0)
    assert (loaded.predict(encoded) - plain.predict(encoded)).abs().max() > 1e-3
    assert not any(module.training for module in loaded.network.modules())


def test_gathered_from_stage_outputs_it_is_the_seed_asked_for(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    predictor, encoded = make_predictor(tiny_split), [example_image(tiny_split.test)]
    for seed in (0, 7):
        models, classifiers = tmp_path / "models/ce" / f"seed_{seed}", tmp_path / "classifiers/crt" / f"seed_{seed}"
        models.mkdir(parents=True)
        classifiers.mkdir(parents=True)
        save_weights(predictor.network, models / "weights.safetensors")
        Classifier(predictor.classifier.weight * seed, predictor.classifier.bias).save(
            classifiers / "classifier.safetensors"
        )
    predictor.description.save(tmp_path / "models/ce")
    gather(tmp_path / "models/ce", tmp_path / "classifiers/crt", 7, tmp_path / "gathered")
    loaded = Predictor.load(tmp_path / "gathered")
    assert torch.equal(loaded.classifier.weight, predictor.classifier.weight * 7)
    assert loaded.predict(encoded).shape == (1, 5)


def test_the_example_is_the_first_image_in_memory_or_on_disk(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    images = tiny_split.test.images
    assert isinstance(images, torch.Tensor)
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(example_image(tiny_split.test))))).permute(2, 0, 1)
    assert torch.equal(decoded, images[0])
    (tmp_path / "first.png").write_bytes(encode_png(images[0]))
    listed = LabeledImages(ImageFiles(tmp_path, ("first.png",), 8), tiny_split.test.labels[:1], 5, ["first"])
    assert example_image(listed) == (tmp_path / "first.png").read_bytes()


def test_a_table_of_images_gives_a_table_with_a_column_per_class(tiny_split: LongTailSplit) -> None:
    pandas = pytest.importorskip("pandas")
    predictor, encoded = make_predictor(tiny_split), [example_image(tiny_split.test)] * 2
    table = Served(predictor).predict(pandas.DataFrame({"image": encoded}, index=[5, 9]))
    assert list(table.columns) == list(tiny_split.classes)
    assert list(table.index) == [5, 9]
    np.testing.assert_allclose(table.to_numpy(), predictor.predict(encoded).numpy())
