"""MiSLAS, stage two: smoothing and shifted BatchNorm in plain formulas, what moves and what stays, and a restart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracles
import tiny
from banks import CPU, make_bank, make_plan, make_run
from longtail.balancers.crt import ClassifierStep
from longtail.balancers.lws import ScaleStep
from longtail.balancers.mislas import ClassAwareBatches, MiSLAS, MiSLASStep, batch_norms, statistics_of
from longtail.features.bank import FeatureBank
from longtail.features.batches import FeatureBatch, validation_accuracies
from longtail.images.labeled import LabeledImages, LongTailSplit
from longtail.loading.reading import Batch
from longtail.models.classifier import Classifier, CosineClassifier, LinearClassifier
from longtail.models.network import Network
from longtail.spec import InputError
from longtail.training.inference import features_of
from longtail.training.loop import History, fit
from trained import trained_network

AUGMENTATION = {"crop": "none", "pad": 0, "flip": True, "jitter": 0.3, "policy": "none", "cutout": 0}
BANK = make_bank(tiny.COUNTS)  # nothing of it is asked but its place in the signature
NO_DRAWS = torch.Generator()


def _spec(shift: bool = True, head: float = 0.3, tail: float = 0.1, **changes: Any) -> MiSLAS:
    row: dict[str, Any] = {
        "smoothing": {"eps_head": head, "eps_tail": tail, "form": "concave"},
        "shift_batch_norm": shift,
        "lr_factors": {"fc": 0.2, "lws": 1.0},
        "augmentation": AUGMENTATION,
        "plan": make_plan(batch_size=16).model_dump(),
    }
    return MiSLAS.model_validate(row | changes)


def _step(shift: bool = True, spec: MiSLAS | None = None) -> MiSLASStep:
    spec = spec or _spec()
    return MiSLASStep(trained_network(), spec.lr_factors, spec.smoothing.eps(torch.tensor(tiny.COUNTS)), shift)


def _batches(split: LongTailSplit, seed: int = 0) -> ClassAwareBatches:
    spec = _spec()
    return ClassAwareBatches(split.train, spec.augmentation, spec.plan, seed)


def _epoch(split: LongTailSplit, epoch: int = 0) -> list[Batch]:
    """An epoch's batches as the loop hands them on: pixels in [0, 1]."""
    return [Batch(batch.images.float() / 255, batch.labels) for (batch,) in _batches(split).epoch(epoch)]


def _run(step: MiSLASStep, batch: Batch) -> Tensor:
    loss: Tensor = step(batch, progress=torch.zeros(()), generator=NO_DRAWS)
    return loss


def _normalised(maps: Tensor, norm: nn.Module, running: list[Tensor]) -> Tensor:
    """BatchNorm in train mode from its definition; the running mean and variance move by a tenth."""
    values = maps.transpose(0, 1).flatten(1)  # (C, B H W)
    count = values.shape[1]
    mean = values.sum(1) / count
    squares = ((values - mean[:, None]) ** 2).sum(1)
    running[0], running[1] = 0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * squares / (count - 1)
    assert isinstance(norm, nn.BatchNorm2d)
    scaled = (maps - mean[:, None, None]) / (squares / count + norm.eps).sqrt()[:, None, None]
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


@torch.no_grad()
def _by_hand(network: Network, batches: list[Batch]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Features of each batch and the statistics after the last, of the two stages of tiny.make_network."""
    first, second = (list(stage) for stage in network.stages)  # type: ignore[call-overload]
    state = {name: value.double() for name, value in statistics_of(network).items()}
    running = {
        name: [state[f"{name}.running_mean"], state[f"{name}.running_var"]] for name in ("stages.0.2", "stages.1.1")
    }
    features = []
    for batch in batches:
        maps = first[1].double()((batch.images.double() - 0.5) / 0.25)
        maps = _normalised(maps, first[2].double(), running["stages.0.2"]).clamp(min=0)
        maps = _normalised(second[0].double()(maps), second[1].double(), running["stages.1.1"]).clamp(min=0)
        features.append(maps.flatten(2).sum(2) / maps[0, 0].numel())
    moved = {f"{name}.running_{kind}": running[name][i] for name in running for i, kind in enumerate(("mean", "var"))}
    return features, moved


def test_statistics_are_the_momentum_average_of_the_batches(tiny_split: LongTailSplit) -> None:
    step, batches = _step().train(), _epoch(tiny_split)
    for batch in batches:
        _run(step, batch)
    _, expected = _by_hand(trained_network(), batches)
    found = step.export().statistics
    assert found is not None
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=1e-4, atol=1e-5), name
        assert not torch.allclose(found[name], statistics_of(trained_network())[name], rtol=1e-2, atol=1e-3), name


def test_loss_is_smoothed_cross_entropy_of_scaled_logits_on_batch_normalised_features(
    tiny_split: LongTailSplit,
) -> None:
    step, batches = _step().train(), _epoch(tiny_split)[:2]
    scales, eps = [0.5, 0.8, 1.0, 1.5, 2.0], step.eps.tolist()
    with torch.no_grad():
        step.lws.copy_(torch.tensor(scales))
    weight, bias = step.weight.tolist(), step.bias.tolist()
    features, _ = _by_hand(trained_network(), batches)
    for batch, rows in zip(batches, features, strict=True):
        losses = []
        for row, y in zip(rows.tolist(), batch.labels.tolist(), strict=True):
            plain = [sum(w * f for w, f in zip(weight[k], row, strict=True)) + bias[k] for k in range(5)]
            surprises = [
                oracles.cross_entropy([s * z for s, z in zip(scales, plain, strict=True)], k) for k in range(5)
            ]
            losses.append((1 - eps[y]) * surprises[y] + eps[y] * sum(surprises) / 5)
        assert _run(step, batch).item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_without_shift_features_are_those_of_stage_one(tiny_split: LongTailSplit) -> None:
    step, batch = _step(shift=False).train(), _epoch(tiny_split)[0]
    network = trained_network()
    eps = step.eps.tolist()
    logits = network(batch.images).tolist()
    losses = []
    for row, y in zip(logits, batch.labels.tolist(), strict=True):
        surprises = [oracles.cross_entropy(row, k) for k in range(5)]
        losses.append((1 - eps[y]) * surprises[y] + eps[y] * sum(surprises) / 5)
    assert _run(step, batch).item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert step.export().statistics is None
    assert all(torch.equal(v, statistics_of(network)[k]) for k, v in statistics_of(step.network).items())


@pytest.mark.parametrize("shift", [True, False])
def test_of_the_backbone_only_statistics_move(shift: bool, tiny_split: LongTailSplit) -> None:
    network = trained_network()
    given = {name: value.clone() for name, value in network.state_dict().items()}
    step = MiSLASStep(network, _spec().lr_factors, torch.zeros(5), shift)
    fit(step, _batches(tiny_split), _spec().plan, make_run())
    moved = {name for name, value in step.network.state_dict().items() if not torch.equal(value, given[name])}
    counters = {f"{name}.num_batches_tracked" for name in batch_norms(network)}
    assert moved == ({*statistics_of(network), *counters} if shift else set())
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())
    assert not torch.equal(step.weight, step.start.weight)


def test_only_the_classifier_gets_gradients(tiny_split: LongTailSplit) -> None:
    step = _step().train()
    loss = _run(step, _epoch(tiny_split)[0])
    learning = {name: p for name, p in step.named_parameters() if p.requires_grad}
    assert set(learning) == {"weight", "bias", "lws"}
    gradients = torch.autograd.grad(loss, list(learning.values()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)
    assert [group["lr_factor"] for group in step.groups()] == [0.2, 1.0]
    assert [p is q for g, q in zip(step.groups(), (step.weight, step.lws), strict=True) for p in g["params"][:1]]


def test_modes() -> None:
    """Training sets BatchNorm alone to train: dropout would put noise on features that nobody learns."""
    stages: list[nn.Module] = [*tiny.make_network().stages, nn.Dropout(0.5)]
    network = Network(stages, LinearClassifier(16, 5)).freeze()
    for shift in (True, False):
        step = MiSLASStep(network, _spec().lr_factors, torch.zeros(5), shift).train()
        modes = [module.training for module in step.network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert modes == [shift, shift]
        assert not any(m.training for m in step.network.modules() if not isinstance(m, nn.BatchNorm2d))
        assert not any(module.training for module in step.eval().modules())
    assert not any(module.training for module in network.modules())


class _Features(ClassAwareBatches):
    """The same images as features, for the steps of balancers that know a bank only."""

    def epoch(self, epoch: int) -> Any:
        network = trained_network()
        for (batch,) in super().epoch(epoch):
            yield (FeatureBatch(network.features(batch.images.float() / 255), batch.labels),)


@pytest.mark.parametrize("learns", ["fc", "lws"])
def test_without_shift_and_smoothing_it_is_crt_from_stage_one_or_lws(learns: str, tiny_split: LongTailSplit) -> None:
    factors = {"fc": 0.0, "lws": 0.0} | {learns: 1.0}
    spec = _spec(shift=False, head=0.0, tail=0.0, lr_factors=factors)
    classifier, _ = spec.fit(BANK, trained_network(), tiny_split, make_run())
    features = _Features(tiny_split.train, spec.augmentation, spec.plan, 0)
    start = trained_network().classifier
    assert isinstance(start, LinearClassifier)
    step = ClassifierStep(start.requires_grad_()) if learns == "fc" else ScaleStep(start.export())
    fit(step, features, spec.plan, make_run())
    same = step.classifier.export() if isinstance(step, ClassifierStep) else step.export()
    assert torch.allclose(classifier.weight, same.weight, atol=1e-5)
    assert torch.allclose(classifier.bias, same.bias, atol=1e-5)
    assert not torch.allclose(classifier.weight, trained_network().classifier.weight, atol=1e-2)


def test_batches_are_full_balanced_and_a_function_of_seed_and_epoch(tiny_split: LongTailSplit) -> None:
    def epoch(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        parts = [batch for (batch,) in _batches(tiny_split, seed).epoch(number)]
        assert [len(part.labels) for part in parts] == [16, 16, 16]  # 43 images
        return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])

    images, labels = epoch(1)
    assert (torch.bincount(labels) >= 8).all()  # 48 places, four at a time
    again, _ = epoch(1)
    assert torch.equal(images, again)
    for others, _ in (epoch(2), epoch(1, seed=1)):
        assert not torch.equal(images, others)
    rarest = images[labels == 4]
    assert len({tuple(image.flatten().tolist()) for image in rarest}) > 1  # its one image, augmented each time anew


def test_each_epoch_augments_anew(tiny_split: LongTailSplit) -> None:
    """A single image has a single order, so that only its augmentation can tell epochs apart."""
    assert isinstance(tiny_split.train.images, Tensor)
    one = LabeledImages(tiny_split.train.images[:1], torch.tensor([0]), 1, ["one"])
    batches = ClassAwareBatches(one, _spec().augmentation, _spec().plan, 0)
    first, again, second = ([batch for (batch,) in batches.epoch(epoch)] for epoch in (0, 0, 1))
    assert len(first) == 1 and len(first[0].labels) == 16
    assert torch.equal(first[0].images, again[0].images)
    assert not torch.equal(first[0].images, second[0].images)


def _accuracy(classifier: Classifier, network: Network, split: LongTailSplit) -> float:
    features = torch.cat(list(features_of(network.freeze(), split.val, CPU)))
    seen = FeatureBank(**(vars(BANK) | {"val_features": features, "val_labels": split.val.labels}))
    return validation_accuracies(classifier, seen, CPU).mean().item()


def test_validation_accuracy_is_that_of_the_returned_classifier_with_its_statistics(tiny_split: LongTailSplit) -> None:
    network = trained_network()
    network = network.with_statistics({name: value + 3 for name, value in statistics_of(network).items()})  # far off
    spec = _spec(plan=make_plan(batch_size=16, epochs=10).model_dump())
    classifier, history = spec.fit(BANK, network, tiny_split, make_run())
    assert classifier.statistics is not None
    accuracy = _accuracy(classifier, network.with_statistics(classifier.statistics), tiny_split)
    assert history[-1]["val_accuracy"] == pytest.approx(accuracy)
    assert accuracy > _accuracy(classifier, network, tiny_split) + 0.3  # the statistics have found back


def test_without_validation_images_it_trains_the_same(tiny_split: LongTailSplit) -> None:
    none = LabeledImages(torch.empty((0, 3, 8, 8), dtype=torch.uint8), torch.empty(0, dtype=torch.int64), 5, [])
    blind = LongTailSplit(**(vars(tiny_split) | {"val": none}))
    one, _ = _spec().fit(BANK, trained_network(), tiny_split, make_run())
    two, history = _spec().fit(BANK, trained_network(), blind, make_run())
    assert torch.equal(one.weight, two.weight)
    assert all(set(row) == {"epoch", "loss", "lr"} for row in history)
    assert _spec().without_validation() is None


def test_a_network_without_batch_norm_cannot_shift(tiny_split: LongTailSplit) -> None:
    network = Network([nn.Conv2d(3, 16, 3)], LinearClassifier(16, 5)).freeze()
    with pytest.raises(InputError, match=r"Set balancer.shift_batch_norm: false"):
        _spec().fit(BANK, network, tiny_split, make_run())
    classifier, _ = _spec(shift=False).fit(BANK, network, tiny_split, make_run())
    assert classifier.statistics is None


def test_a_cosine_classifier_keeps_seeing_unit_features(tiny_split: LongTailSplit) -> None:
    network = Network(list(tiny.make_network().stages), CosineClassifier(16, 5, scale=8.0)).freeze()
    step = MiSLASStep(network, _spec().lr_factors, torch.zeros(5), shift=False).train()
    batch = _epoch(tiny_split)[0]
    expected = nn.functional.cross_entropy(network(batch.images), batch.labels)
    assert _run(step, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert step.export().unit_norm


class _KilledError(Exception):
    pass


def _equal(one: Classifier, two: Classifier) -> bool:
    assert one.statistics and two.statistics
    pairs = [(one.weight, two.weight), (one.bias, two.bias)]
    pairs += [(value, two.statistics[name]) for name, value in one.statistics.items()]
    return all(torch.equal(a, b) for a, b in pairs)


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tiny_split: LongTailSplit, tmp_path: Path) -> None:
    whole, history = _spec().fit(BANK, trained_network(), tiny_split, make_run())

    def killer(row: History) -> None:
        if row["epoch"] == 2:
            raise _KilledError

    with pytest.raises(_KilledError):
        _spec().fit(BANK, trained_network(), tiny_split, make_run(checkpoint=tmp_path / "c.pt", log=killer))
    resumed, again = _spec().fit(BANK, trained_network(), tiny_split, make_run(checkpoint=tmp_path / "c.pt"))
    assert again == history
    assert _equal(resumed, whole)
