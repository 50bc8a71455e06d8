"""OFA: what its batches hold, what the classifier learns from, and what stays as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_feature_fusion import TAU_G, TAU_S, fused_oracle
from torch import Tensor
from torch.nn import functional as F

import tiny
from banks import CPU, make_plan, make_run
from longtail.balancers.ofa import OFA, FusionBatches, FusionStep
from longtail.features.bank import ExtractSpec, FeatureBank, extract
from longtail.loading.augmentation import Augmentation
from longtail.loading.reading import Batch
from longtail.models.classifier import LinearClassifier
from longtail.models.network import Network
from longtail.seeding import generator
from longtail.spec import InputError
from longtail.training.loop import History
from trained import trained_network

AUGMENTATION = {"crop": "pad", "pad": 1, "flip": True, "jitter": 0.0, "policy": "none", "cutout": 0}
SPLIT = tiny.make_split()
HEAD = [True, True, False, False, False]  # 32 of 43 images


def spec(**changes: Any) -> OFA:
    row: dict[str, Any] = {
        "specific": TAU_S,
        "generic": TAU_G,
        "confusing": 3,
        "confusing_pool": "all",
        "fused_per_image": 3,
        "tail_sampling": "class",
        "head_classes": {"name": "share", "share": 0.7},
        "fuse": True,
        "iterations": 12,
        "augmentation": AUGMENTATION,
        "plan": make_plan(epochs=4, batch_size=16, lr=0.01).model_dump(),
    }
    return OFA.model_validate(row | changes)


def bank_of(network: Network) -> FeatureBank:
    extraction = ExtractSpec(views=2, max_gigabytes=1.0)
    return extract(network, SPLIT, Augmentation.model_validate(AUGMENTATION), extraction, 0, CPU)


NETWORK = trained_network()
BANK = bank_of(NETWORK)


def batches(row: OFA, seed: int = 0) -> FusionBatches:
    return FusionBatches(row, SPLIT, torch.tensor(HEAD), BANK.confusion, seed)


def first_batch(row: OFA) -> Batch:
    (batch,) = next(iter(batches(row).epoch(0)))
    return Batch(batch.images.float() / 255, batch.labels)


def compose_oracle(batch: Batch, row: OFA, draws: list[list[float]]) -> tuple[list[list[float]], list[int]]:
    """Algorithm 1, lines 4 to 22, for a batch of drawn images: features and labels of what it puts out."""
    maps, labels = NETWORK.maps(batch.images), batch.labels.tolist()
    pooled: list[list[float]] = maps.double().mean((2, 3)).tolist()
    tails, copies = row.tails, row.fused_per_image
    features, out = pooled[:tails], labels[:tails]
    for tail in range(tails):
        for copy in range(copies):
            pair = tail * copies + copy
            if row.fuse:
                images = (tail, tails + pair)
                features.append(fused_oracle(maps, NETWORK.classifier.weight, labels, images, draws[pair]))
            else:
                features.append(pooled[tail])
            out.append(labels[tail])
    return features + pooled[tails * (1 + copies) :], out + labels[tails * (1 + copies) :]


def compare(**changes: Any) -> None:
    """Compare what the classifier sees, its loss and its gradient with Algorithm 1."""
    row = spec(**changes)
    batch, step = first_batch(row), FusionStep(row, NETWORK)
    locations = NETWORK.map_shape()[1] * NETWORK.map_shape()[2]
    pairs = row.tails * row.fused_per_image
    draws = torch.rand(pairs, 1 + 2 * locations, generator=generator(0, "step")).tolist()
    features, labels = compose_oracle(batch, row, draws)
    seen = step.compose(batch, generator(0, "step"))
    assert seen.labels.tolist() == labels
    wanted = torch.tensor(features)
    torch.testing.assert_close(seen.features, wanted, rtol=1e-4, atol=1e-5)
    loss = step(batch, progress=torch.zeros(()), generator=generator(0, "step"))
    weight = NETWORK.classifier.weight.detach().clone().requires_grad_()
    assert isinstance(NETWORK.classifier, LinearClassifier)
    expected = F.cross_entropy(wanted @ weight.T + NETWORK.classifier.bias, torch.tensor(labels))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, [step.classifier.weight])
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, [weight])[0], rtol=1e-3, atol=1e-5)


def compare_batches(**changes: Any) -> None:
    """Compare the classes of drawn batches with the composition of section 4.3."""
    row = spec(**changes)
    made, confusion = batches(row), BANK.confusion.tolist()
    labels = SPLIT.train.labels[made.draw(400, generator(0, "draw"))]
    tails, copies = row.tails, row.fused_per_image
    assert labels.shape == (400, 2 * tails * (1 + copies))
    tail, partners, heads = torch.split(labels, [tails, tails * copies, tails * (1 + copies)], 1)
    in_tail = [c for c in range(5) if not HEAD[c]]
    shares = torch.bincount(tail.flatten(), minlength=5) / tail.numel()
    counts = torch.tensor(tiny.COUNTS) if row.tail_sampling == "image" else torch.ones(5)
    torch.testing.assert_close(shares[in_tail], (counts / counts[in_tail].sum())[in_tail].float(), rtol=0, atol=0.06)
    assert not shares[:2].any()
    seen, possible = dict[int, set[int]](), dict[int, set[int]]()
    pool = [u for u in range(5) if row.confusing_pool == "all" or HEAD[u]]
    for label, others in zip(tail.flatten().tolist(), partners.reshape(-1, copies).tolist(), strict=True):
        ranked = sorted((u for u in pool if u != label), key=lambda u: (-confusion[label][u], u))[: row.confusing]
        if len(ranked) == copies:
            assert others == ranked
        else:
            assert set(others) <= set(ranked)
        seen.setdefault(label, set()).update(others)
        possible[label] = set(ranked)
    assert seen == possible  # none of them is left out
    shares = torch.bincount(heads.flatten(), minlength=5) / heads.numel()
    head_counts = torch.tensor([tiny.COUNTS[0], tiny.COUNTS[1], 0, 0, 0])
    torch.testing.assert_close(shares, head_counts / head_counts.sum(), rtol=0, atol=0.06)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("copies", [1, 3])
def test_a_batch_is_that_of_algorithm_1(fuse: bool, copies: int) -> None:
    compare(fuse=fuse, fused_per_image=copies)


@pytest.mark.parametrize("sampling", ["class", "image"])
@pytest.mark.parametrize("pool", ["all", "head"])
@pytest.mark.parametrize("confusing", [1, 3])
def test_batches_are_composed_as_published(sampling: str, pool: str, confusing: int) -> None:
    compare_batches(tail_sampling=sampling, confusing_pool=pool, confusing=confusing)


def test_a_batch_of_128_is_16_tail_48_fused_and_64_head() -> None:
    row = spec(plan=make_plan(epochs=4, batch_size=128).model_dump())
    assert row.tails == 16
    assert batches(row).draw(2, generator(0, "draw")).shape == (2, 16 + 48 + 64)


def test_images_are_augmented_afresh_in_every_part() -> None:
    row = spec()
    one, again, other = ([b.images for (b,) in batches(row).epoch(e)] for e in (0, 0, 1))
    assert len(one) == 3
    assert all(a.equal(b) for a, b in zip(one, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(one, other, strict=True))


def test_only_the_classifier_learns() -> None:
    network = trained_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step = FusionStep(spec(), network).train()
    assert {name for name, _ in step.named_parameters()} == {"classifier.weight", "classifier.bias"}
    assert not network.training
    classifier, _ = spec().fit(BANK, network, SPLIT, make_run())
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert not classifier.weight.equal(before["classifier.weight"])


def test_maps_stay_those_of_stage_one_while_the_classifier_moves() -> None:
    step, batch = FusionStep(spec(), NETWORK), first_batch(spec())
    before = step.compose(batch, generator(0, "step")).features
    with torch.no_grad():
        step.classifier.weight.mul_(-1)
    assert step.compose(batch, generator(0, "step")).features.equal(before)


class Killed(BaseException):
    """Like KeyboardInterrupt."""


def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def log(row: History) -> None:
        if row["epoch"] == 1:
            raise Killed

    def fitted(**how: Any) -> tuple[Tensor, list[History]]:
        classifier, rows = spec().fit(BANK, trained_network(), SPLIT, make_run(**how))
        return classifier.weight, rows

    with pytest.raises(Killed):
        fitted(checkpoint=tmp_path / "seed_0.pt", log=log)
    resumed, rows = fitted(checkpoint=tmp_path / "seed_0.pt")
    whole, same = fitted()
    assert resumed.equal(whole)
    assert rows == same


@pytest.mark.parametrize(
    ("head_classes", "missing"),
    [({"name": "share", "share": 1.0}, "tail"), ({"name": "many_shot", "above": 1000}, "head")],
)
def test_a_split_without_tail_or_head_is_refused(head_classes: dict[str, Any], missing: str) -> None:
    with pytest.raises(InputError, match=rf"no class is {missing}\. Change balancer\.head_classes"):
        spec(head_classes=head_classes).fit(BANK, trained_network(), SPLIT, make_run())


def test_maps_of_one_location_are_refused() -> None:
    network = trained_network()
    network.stages.append(torch.nn.AdaptiveAvgPool2d(1))
    with pytest.raises(InputError, match=r"only one\. Choose another network\.backbone"):
        spec().fit(BANK, network, SPLIT, make_run())


def test_numbers_that_do_not_divide_up_are_refused() -> None:
    with pytest.raises(ValueError, match=r"plan\.batch_size is 20.*multiple of 8\. Set it to 16"):
        spec(plan=make_plan(epochs=4, batch_size=20).model_dump())
    with pytest.raises(ValueError, match=r"iterations is 13, which plan\.epochs 4 does not divide"):
        spec(iterations=13)
