"""The balanced union: who is in it, where its features come from, and that it never is in memory whole."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import longtail.balancers.glag
from banks import COUNTS, CPU, copied, make_bank, same
from calibration_oracle import Moments, calibrated, covariance_of, mean_of
from longtail.balancers.glag import Confidence, GeneratedBatch, GeneratedBatches, Generation, inverse_tukey
from longtail.features.bank import FeatureBank
from longtail.features.statistics import ClassStatistics
from longtail.models.classifier import tukey
from longtail.spec import InputError

HEAD = torch.tensor([True, True, False, False, False])


def _spec(**changes: Any) -> Generation:
    base: dict[str, Any] = {
        "tukey": 0.9,
        "statistics": "transformed",
        "support": 2,
        "gamma": 0.0,
        "gamma_form": "ones",
        "clamp": False,
        "epoch_rows": "union",
    }
    return Generation.model_validate(base | changes)


def _batches(
    bank: FeatureBank,
    is_head: torch.Tensor = HEAD,
    beta: float = 0.5,
    batch_size: int = 16,
    seed: int = 0,
    **changes: Any,
) -> GeneratedBatches:
    accuracies = torch.zeros(len(is_head), dtype=torch.float64)
    confidence = Confidence.start(beta, is_head, accuracies)
    return GeneratedBatches(bank, _spec(**changes), is_head, confidence, batch_size, seed, CPU)


def _joined(batches: GeneratedBatches, epoch: int = 0) -> GeneratedBatch:
    """Return an epoch as one batch."""
    parts, start = [], 0
    for (batch,) in batches.epoch(epoch):
        parts.append(batch._replace(head_rows=batch.head_rows + start))
        start += len(batch.labels)
    return GeneratedBatch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@pytest.mark.parametrize("batch_size", [7, 16, 512])
def test_epoch_is_balanced_and_contains_the_real_rows_of_its_view(batch_size: int) -> None:
    bank = make_bank(views=2)
    for epoch in range(3):
        joined = _joined(_batches(bank, batch_size=batch_size), epoch)
        assert torch.bincount(joined.labels).tolist() == [40] * 5
        real = bank.features[epoch % 2].float() ** 0.9
        near = torch.cdist(real, joined.features, compute_mode="donot_use_mm_for_euclid_dist") < 1e-5
        found = near & (joined.labels[None] == bank.labels[:, None])
        assert (found.sum(1) >= 1).all()


def test_head_rows_are_the_real_rows_of_head_classes_before_the_transform() -> None:
    compare_head_rows()


def compare_head_rows() -> None:
    """Compare what the teacher sees with the bank."""
    bank = make_bank()
    joined = _joined(_batches(bank), 1)
    assert len(joined.head_rows) == 40 + 18
    assert HEAD[joined.labels[joined.head_rows]].all()
    assert torch.allclose(joined.features[joined.head_rows], joined.head_features**0.9)
    view = bank.features[1].float()[HEAD[bank.labels]]
    assert sorted(map(tuple, joined.head_features.tolist())) == sorted(map(tuple, view.tolist()))


def test_batches_have_the_asked_size() -> None:
    sizes = [len(batch.labels) for (batch,) in _batches(make_bank(), batch_size=16).epoch(0)]
    assert sizes == [16] * 12 + [8]


def test_original_epochs_are_as_long_as_the_training_set() -> None:
    joined = _joined(_batches(make_bank(), epoch_rows="original"))
    assert len(joined.labels) == sum(COUNTS)
    assert len(joined.head_rows) < 40  # a part of the union, not the real rows


def test_equal_counts_generate_nothing() -> None:
    bank = make_bank(counts=(6, 6, 6))
    for heads in (torch.tensor([True] * 3), torch.tensor([False] * 3)):
        joined = _joined(_batches(bank, heads, tukey=1.0))
        real = bank.features[0].float()
        assert sorted(map(tuple, joined.features.tolist())) == sorted(map(tuple, real.tolist()))


def test_head_classes_draw_from_their_own_distribution() -> None:
    bank = make_bank(counts=(30_000, 4), dim=3, spread=0.3, views=1)
    joined = _joined(_batches(bank, torch.tensor([True, True]), tukey=1.0, batch_size=4096))
    rows = bank.features[0].float()[bank.labels == 1]
    drawn = joined.features[joined.labels == 1]
    assert torch.allclose(drawn.mean(0), rows.mean(0), atol=0.02)
    assert torch.allclose(drawn.T.cov(), rows.T.cov(), atol=0.02)


@pytest.mark.parametrize(("statistics", "power"), [("transformed", 0.5), ("raw", 1.0)])
def test_with_full_confidence_tail_rows_lie_around_the_other_means(statistics: str, power: float) -> None:
    bank = make_bank(counts=(30_000, 2), dim=3, spread=0.3, views=1)
    heads = torch.tensor([True, False])
    joined = _joined(_batches(bank, heads, beta=1.0, tukey=0.5, statistics=statistics, batch_size=4096))
    head = bank.features[0].float()[bank.labels == 0] ** power
    drawn = joined.features[joined.labels == 1]
    assert torch.allclose(drawn.mean(0), head.mean(0), atol=0.02)
    assert torch.allclose(drawn.T.cov(), head.T.cov(), atol=0.02)


def test_features_of_a_union_have_the_moments_of_the_paper() -> None:
    compare()


def compare(epoch: int = 1) -> None:
    """Compare each class of a union with GLAG eq. 5 to 10: its real rows, and the mixture that is drawn for it.

    Class 1 is a head class too, 2 and 3 are tail classes with a beta each; no option is at the value where it is idle.
    """
    beta, gamma, power, size = [0.0, 0.0, 0.6, 0.3], 0.05, 0.5, 2
    bank = make_bank(counts=(3000, 1500, 40, 4), dim=4, spread=0.3, views=2)
    heads = torch.tensor([True, True, False, False])
    batches = _batches(bank, heads, tukey=power, gamma=gamma, support=size, batch_size=4096)
    batches.confidence = Confidence(*[torch.tensor(beta, dtype=torch.float64)] * 3)
    joined = _joined(batches, epoch)
    view = (bank.features[epoch % 2].double() ** power).tolist()
    groups = [[x for x, y in zip(view, bank.labels.tolist(), strict=True) if y == k] for k in range(4)]
    moments, counts = [(mean_of(rows), covariance_of(rows)) for rows in groups], [len(rows) for rows in groups]
    for k, rows in enumerate(groups):
        missing = max(counts) - counts[k]
        calibrate = partial(calibrated, moments=moments, counts=counts, size=size, gamma=gamma, form="ones")
        sources = [moments[k]] if heads[k] else [calibrate(x, k, beta[k]) for x in rows]
        parts = [(1.0, (x, [[0.0] * 4] * 4)) for x in rows] + [(missing / len(sources), part) for part in sources]
        compare_mixture(joined.features[joined.labels == k].double(), parts, missing)


def compare_mixture(features: torch.Tensor, parts: list[tuple[float, Moments]], drawn: int) -> None:
    """Compare mean and covariance of rows with those of a mixture (weights and moments), within six standard errors."""
    total, dims = sum(weight for weight, _ in parts), range(features.shape[1])
    mean = [math.fsum(w * m[a] for w, (m, _) in parts) / total for a in dims]
    covariance = [
        [math.fsum(w * (c[a][b] + (m[a] - mean[a]) * (m[b] - mean[b])) for w, (m, c) in parts) / total for b in dims]
        for a in dims
    ]
    variance = features.new_tensor(covariance).diagonal()
    error = 6 * drawn**0.5 / total  # real rows are known
    assert len(features) == pytest.approx(total)
    assert ((features.mean(0) - features.new_tensor(mean)).abs() <= error * variance.sqrt() + 1e-6).all()
    bound = error * (2 * variance[:, None] * variance[None]).sqrt() + 1e-6
    assert ((features.T.cov(correction=0) - features.new_tensor(covariance)).abs() <= bound).all()


@pytest.mark.parametrize(
    "change",
    [
        {"tukey": 1.0},
        {"statistics": "raw"},
        {"support": 1},
        {"gamma": 0.1},
        {"clamp": True},
        {"beta": 0.6},
        {"seed": 1},
    ],
)
def test_every_option_matters(change: dict[str, Any]) -> None:
    bank = make_bank(spread=0.5)
    assert not torch.equal(_joined(_batches(bank)).features, _joined(_batches(bank, **change)).features)


def test_forms_of_gamma_differ_and_clamped_rows_are_not_negative() -> None:
    bank = make_bank(spread=0.5)
    ones, identity = (_joined(_batches(bank, gamma=0.5, gamma_form=form)).features for form in ("ones", "identity"))
    assert not torch.equal(ones, identity)
    assert (ones < 0).any()
    assert (_joined(_batches(bank, gamma=0.5, clamp=True)).features >= 0).all()


def test_the_logarithm() -> None:
    joined = _joined(_batches(make_bank(), tukey=0.0))
    assert torch.allclose(joined.features[joined.head_rows], (joined.head_features + 1e-6).log())
    with pytest.raises(ValueError, match=r"clamp: true would cut .* set clamp: false"):
        _spec(tukey=0.0, clamp=True)


def test_negative_features_are_refused_wherever_they_are() -> None:
    bank = make_bank()
    for name, where in (("features", (2, 0, 0)), ("val_features", (0, 0))):
        spoilt = copied(bank)
        getattr(spoilt, name)[where] = -0.5
        with pytest.raises(InputError, match=r"generation.tukey is 0.9, .* Set balancer.generation.tukey: 1.0"):
            _spec().check(spoilt)
        _spec(tukey=1.0).check(spoilt)


def test_epochs_are_functions_of_seed_number_and_confidence_and_inputs_stay() -> None:
    bank = make_bank(views=1)
    before = copied(bank)
    one, again, later = (_joined(_batches(bank), epoch) for epoch in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.features, later.features)
    restored = _batches(bank, beta=0.1)
    restored.load_state_dict(_batches(bank).state_dict())
    assert torch.equal(_joined(restored, 1).features, one.features)
    assert same(bank, before)


def test_no_draw_repeats_within_an_epoch_or_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(counts=(400, 40, 8), dim=6, views=1)
    monkeypatch.setattr(longtail.balancers.glag, "CHUNK", 400 * 6)  # three chunks each
    batches = _batches(bank, torch.tensor([True, True, False]), batch_size=100)
    joined = [_joined(batches, epoch) for epoch in range(2)]
    drawn = torch.cat([epoch.features[(epoch.labels == 1).index_fill(0, epoch.head_rows, False)] for epoch in joined])
    assert len(drawn) == 2 * 360
    assert len({tuple(row) for row in drawn.tolist()}) == len(drawn)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.9, 1.0])
def test_inverse_of_the_transform(power: float) -> None:
    features = torch.rand((4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(inverse_tukey(tukey(features, power), power), features, atol=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_examples_lie_around_their_class_and_its_neighbours(power: float) -> None:
    bank = make_bank(dim=8, spread=0.05)
    features, labels = _batches(bank, beta=0.0, tukey=power).examples(torch.tensor([4, 2]))
    assert torch.bincount(labels).tolist() == [0, 0, 150, 0, 150]
    assert torch.allclose(features[labels == 2].mean(0), bank.class_means[2], atol=0.05)
    assert torch.allclose(features[labels == 4], bank.class_means[4].expand(150, -1), atol=1e-3)  # one image, no spread
    moved, _ = _batches(bank, beta=0.5, tukey=power).examples(torch.tensor([4]))
    assert (moved.mean(0) - bank.class_means[4]).norm() > 0.5


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the shape of every tensor that torch makes, apart from views of the bank."""

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = bank.features.untyped_storage().data_ptr()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, (tuple, list)) else [result]
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        self.shapes += [part.shape for part in tensors if part.untyped_storage().data_ptr() != self.given]
        return result


def test_wide_features_need_no_covariance_and_no_whole_union(monkeypatch: pytest.MonkeyPatch) -> None:
    dim, counts = 2048, [100, *range(49, 0, -1)]
    bank = make_bank(counts, dim=dim, views=1, val_per_class=0)
    monkeypatch.setattr(longtail.balancers.glag, "CHUNK", 2**18)
    heads = bank.class_counts > 20
    with _Sizes(bank) as sizes:
        rows = sum(len(batch.labels) for (batch,) in _batches(bank, heads, batch_size=64, support=3).epoch(0))
    assert rows == 100 * len(counts)
    wide = [shape for shape in sizes.shapes if dim in shape]
    assert not any(shape.count(dim) > 1 for shape in wide)  # no covariance, nor anything of its shape
    largest = max(shape.numel() for shape in wide)
    assert largest <= max(2**18, 100 * dim)  # a chunk, or the features of one class
    assert largest < rows * dim / 20
    factors = ClassStatistics.of(bank.features[0].float()[bank.labels == k] for k in range(50)).factors
    assert sum(factor.numel() for factor in factors) <= bank.features[0].numel()
