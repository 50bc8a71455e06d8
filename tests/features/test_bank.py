"""The feature bank: what the network says of each image, kept once for all balancers."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from longtail.features.bank import ExtractSpec, FeatureBank, extract
from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.loading.augmentation import Augmentation
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError
from longtail.training.inference import class_means, features_of, validation_accuracy

CPU = torch.device("cpu")
WEAK = Augmentation(crop="pad", pad=2, flip=True, jitter=0, policy="none", cutout=0)
NONE = Augmentation(crop="none", pad=0, flip=False, jitter=0, policy="none", cutout=0)
SPEC = ExtractSpec(views=3, max_gigabytes=1)


def extracted(network: Network, split: LongTailSplit, spec: ExtractSpec = SPEC, seed: int = 0) -> FeatureBank:
    return extract(network, split, WEAK, spec, seed, CPU)


def pixels(images: LabeledImages) -> Tensor:
    assert isinstance(images.images, Tensor)
    return images.images / 255


@pytest.fixture
def trained_network(tiny_split: LongTailSplit, tiny_network: Network) -> Network:
    """A network whose BatchNorm has seen the data, left in train mode."""
    tiny_network.train()(pixels(tiny_split.train))
    return tiny_network


@pytest.fixture
def bank(tiny_split: LongTailSplit, trained_network: Network) -> FeatureBank:
    """Three views of the tiny split."""
    return extracted(trained_network, tiny_split)


def test_shapes_and_types_are_those_promised(bank: FeatureBank, tiny_split: LongTailSplit) -> None:
    shapes = {field.name: tuple(getattr(bank, field.name).shape) for field in dataclasses.fields(bank)}
    types = {field.name: getattr(bank, field.name).dtype for field in dataclasses.fields(bank)}
    assert shapes == {
        "features": (3, 43, 16),
        "labels": (43,),
        "val_features": (10, 16),
        "val_labels": (10,),
        "class_counts": (5,),
        "class_means": (5, 16),
        "confusion": (5, 5),
    }
    assert types == {
        "features": torch.float16,
        "labels": torch.int64,
        "val_features": torch.float16,
        "val_labels": torch.int64,
        "class_counts": torch.int64,
        "class_means": torch.float32,
        "confusion": torch.float32,
    }
    assert bank.labels.equal(tiny_split.train.labels)
    assert bank.val_labels.equal(tiny_split.val.labels)
    assert bank.class_counts.tolist() == list(tiny.COUNTS)


@torch.no_grad()
def test_view_0_and_the_validation_features_are_clean(
    bank: FeatureBank, tiny_split: LongTailSplit, trained_network: Network
) -> None:
    network = trained_network.eval()
    for features, images in ((bank.features[0], tiny_split.train), (bank.val_features, tiny_split.val)):
        expected = torch.cat([network.features(image[None]) for image in pixels(images)])  # no batch: no order
        torch.testing.assert_close(features.float(), expected, rtol=1e-3, atol=1e-4)


def test_other_views_differ_from_the_clean_one_and_from_each_other(bank: FeatureBank) -> None:
    views = [view.numpy().tobytes() for view in bank.features]
    assert len(set(views)) == 3
    distance = (bank.view(1) - bank.view(0)).norm(dim=1) / bank.view(0).norm(dim=1)
    assert 0 < distance.median() < 0.5  # of the same images, in the same order
    wrong = (bank.view(1) - bank.view(0).roll(20, 0)).norm(dim=1)
    assert (bank.view(1) - bank.view(0)).norm(dim=1).mean() < wrong.mean()


def test_without_augmentation_all_views_are_the_clean_one(tiny_split: LongTailSplit, trained_network: Network) -> None:
    bank = extract(trained_network, tiny_split, NONE, SPEC, 0, CPU)
    assert bank.features[1].equal(bank.features[0])
    assert bank.features[2].equal(bank.features[0])


def test_equal_seeds_give_equal_bits_and_other_seeds_other_views(
    bank: FeatureBank, tiny_split: LongTailSplit, trained_network: Network
) -> None:
    before = torch.get_rng_state()
    again, other = (extracted(trained_network, tiny_split, seed=seed) for seed in (0, 1))
    assert again.features.equal(bank.features)
    assert other.features[0].equal(bank.features[0])
    assert not other.features[1].equal(bank.features[1])
    assert torch.get_rng_state().equal(before)


def test_a_view_does_not_depend_on_how_many_there_are(
    bank: FeatureBank, tiny_split: LongTailSplit, trained_network: Network
) -> None:
    fewer = extracted(trained_network, tiny_split, ExtractSpec(views=2, max_gigabytes=1))
    assert fewer.features.equal(bank.features[:2])


def test_views_are_cycled_through_in_single_precision(bank: FeatureBank) -> None:
    assert bank.view(0).dtype == torch.float32
    for number in range(7):
        assert bank.view(number).equal(bank.features[number % 3].float())


def test_class_means_are_those_of_the_clean_view(bank: FeatureBank) -> None:
    for k, count in enumerate(tiny.COUNTS):
        own = [row for row, label in zip(bank.features[0].tolist(), bank.labels.tolist(), strict=True) if label == k]
        expected = [sum(column) / count for column in zip(*own, strict=True)]
        torch.testing.assert_close(bank.class_means[k], torch.tensor(expected), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_confusion_is_the_mean_softmax_per_class(
    bank: FeatureBank, tiny_split: LongTailSplit, trained_network: Network
) -> None:
    softmax = trained_network.eval()(pixels(tiny_split.train)).softmax(1)
    for k in range(5):
        expected = softmax[tiny_split.train.labels == k].mean(0)
        torch.testing.assert_close(bank.confusion[k], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.confusion.sum(1), torch.ones(5))


def test_the_network_is_frozen_and_nothing_in_it_changes(tiny_split: LongTailSplit, trained_network: Network) -> None:
    before = {name: tensor.clone() for name, tensor in trained_network.state_dict().items()}
    extracted(trained_network, tiny_split)
    after = trained_network.state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    assert not trained_network.training
    assert not any(parameter.requires_grad for parameter in trained_network.parameters())


def test_without_validation_images_there_are_no_validation_features(
    tiny_split: LongTailSplit, tiny_network: Network, tmp_path: Path
) -> None:
    assert isinstance(tiny_split.val.images, Tensor)
    empty = LabeledImages(tiny_split.val.images[:0], tiny_split.val.labels[:0], 5, [])
    bank = extracted(tiny_network, dataclasses.replace(tiny_split, val=empty))
    bank.save(tmp_path / "bank.safetensors")
    again = FeatureBank.load(tmp_path / "bank.safetensors")
    assert again.val_features.shape == (0, 16)
    assert again.val_labels.shape == (0,)


def test_a_bank_comes_back_as_it_was_saved_and_equal_banks_are_equal_bytes(bank: FeatureBank, tmp_path: Path) -> None:
    for name in ("one", "two"):
        bank.save(tmp_path / name)
    again = FeatureBank.load(tmp_path / "one")
    for field in dataclasses.fields(bank):
        assert getattr(again, field.name).equal(getattr(bank, field.name)), field.name
        assert getattr(again, field.name).dtype == getattr(bank, field.name).dtype
    again.save(tmp_path / "three")
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1


def test_parts_of_one_tensor_can_be_saved(bank: FeatureBank, tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory, and a split may have cut its labels out of one."""
    labels = torch.cat([bank.labels, bank.val_labels])
    cut = dataclasses.replace(bank, labels=labels[:43], val_labels=labels[43:])
    cut.save(tmp_path / "bank.safetensors")
    assert FeatureBank.load(tmp_path / "bank.safetensors").val_labels.equal(bank.val_labels)


@given(st.integers(1, 5000), st.integers(1, 10**6), st.integers(1, 4096))
def test_the_size_is_that_of_two_bytes_per_number(views: int, images: int, dim: int) -> None:
    gigabytes = views * images * dim * 2 / 10**9
    ExtractSpec(views=views, max_gigabytes=gigabytes * 1.001).check(images, dim)
    with pytest.raises(InputError, match=rf"^extract\.views is {views}, .* Lower extract\.views or raise"):
        ExtractSpec(views=views, max_gigabytes=gigabytes * 0.999).check(images, dim)


def test_a_bank_that_is_too_large_is_refused_before_any_work(tiny_split: LongTailSplit, tiny_network: Network) -> None:
    """40 views of iNaturalist at 2048 features are 72 GB."""
    with pytest.raises(InputError, match=r"72\.0 GB|71\.7 GB"):
        ExtractSpec(views=40, max_gigabytes=8).check(437_513, 2048)
    tiny_network.train()
    with pytest.raises(
        InputError, match=r"extract\.views is 3, so the feature bank would take .*extract\.max_gigabytes 1e-09"
    ):
        extracted(tiny_network, tiny_split, ExtractSpec(views=3, max_gigabytes=1e-9))
    assert tiny_network.training


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e7])
def test_features_that_half_precision_cannot_hold_are_refused(
    tiny_split: LongTailSplit, trained_network: Network, scale: float
) -> None:
    with torch.no_grad():
        for parameter in trained_network.stages[1].parameters():
            parameter.mul_(scale)
    with pytest.raises(InputError, match=r"half precision .* Train it again with a lower plan\.lr"):
        extracted(trained_network, tiny_split)


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_class_means_are_means(rows: int, classes: int, width: int, seed: int) -> None:
    draws = generator(seed, "rows")
    values = torch.randn(rows, width, generator=draws)
    labels = torch.randint(classes, (rows,), generator=draws)
    means = class_means(values, labels, classes)
    for k in range(classes):
        own = [value for value, label in zip(values.tolist(), labels.tolist(), strict=True) if label == k]
        expected = [sum(column) / len(own) for column in zip(*own, strict=True)] if own else [0.0] * width
        torch.testing.assert_close(means[k], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_features_come_in_the_order_of_the_images_and_in_single_precision(
    tiny_split: LongTailSplit, tiny_network: Network
) -> None:
    order = torch.randperm(43, generator=generator(0, "order"))
    data = tiny_split.train
    assert isinstance(data.images, Tensor)
    shuffled = LabeledImages(data.images[order], data.labels[order], 5, [data.ids[i] for i in order.tolist()])
    network = tiny_network.freeze()
    straight, mixed = (torch.cat(list(features_of(network, images, CPU))) for images in (data, shuffled))
    assert straight.dtype == torch.float32
    torch.testing.assert_close(mixed, straight[order])


def test_validation_accuracy_is_the_mean_over_classes_that_have_images(
    tiny_split: LongTailSplit, trained_network: Network
) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 4])
    assert isinstance(tiny_split.train.images, Tensor)
    images = LabeledImages(tiny_split.train.images[[0, 1, 2, 20, 21, 42]], labels, 5, list("abcdef"))
    network = trained_network.eval()
    predicted = network(pixels(images)).argmax(1).tolist()
    hits = {k: [p == k for p, y in zip(predicted, labels.tolist(), strict=True) if y == k] for k in (0, 1, 4)}
    expected = sum(sum(own) / len(own) for own in hits.values()) / 3
    assert validation_accuracy(network, images, CPU) == pytest.approx(expected)
