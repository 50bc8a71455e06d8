"""GLAG eq. 5 to 10 in plain loops from the paper, and the moments of what is drawn."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibration_oracle import Moments, Rows, calibrated, covariance_of, mean_of, support_of
from longtail.features.statistics import ClassStatistics, Support, draw_calibrated, rows_by_class, support_sets

DRAWS = 100_000


def _calibrated(
    x: list[float], label: int, beta: float, groups: list[Rows], size: int, gamma: float, form: str
) -> Moments:
    """Eq. 8 and 9; a sample without candidates keeps its own mean and covariance."""
    moments = [(mean_of(rows), covariance_of(rows)) for rows in groups]
    return calibrated(x, label, beta, moments, [len(rows) for rows in groups], size, gamma, form)


def _groups(counts: list[int], dim: int, seed: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [
        3 * torch.rand(dim, generator=draws, dtype=torch.float64)
        + torch.randn((n, dim), generator=draws, dtype=torch.float64)
        for n in counts
    ]


def _draw(x: Tensor, label: int, beta: float, groups: list[Tensor], size: int, **more: Any) -> Tensor:
    statistics = ClassStatistics.of(groups)
    labels = torch.tensor([label])
    support = support_sets(x[None], labels, statistics, size)
    many: dict[str, Any] = {"gamma": 0.0, "gamma_form": "ones", "draws": DRAWS, "seed": 5} | more
    n = many["draws"]
    return draw_calibrated(
        x.expand(n, -1),
        labels.expand(n),
        torch.full((n,), beta, dtype=torch.float64),
        Support(support.classes.expand(n, -1), support.weights.expand(n, -1)),
        statistics,
        many["gamma"],
        many["gamma_form"],
        torch.Generator().manual_seed(many["seed"]),
    )


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 99))
def test_statistics(counts: list[int], dim: int, seed: int) -> None:
    compare_statistics(counts, dim, seed)


def compare_statistics(counts: list[int], dim: int, seed: int) -> None:
    """Compare means and covariances of classes with eq. 5 and 6."""
    groups = _groups(counts, dim, seed)
    statistics = ClassStatistics.of(groups)
    assert statistics.class_counts.tolist() == counts
    for k, rows in enumerate(groups):
        factor = statistics.factors[k]
        assert factor.shape == (min(len(rows), dim), dim)  # never larger than the class's own features
        assert statistics.means[k].tolist() == pytest.approx(mean_of(rows.tolist()), abs=1e-12)
        expected = torch.tensor(covariance_of(rows.tolist()), dtype=torch.float64)
        assert torch.allclose(factor.T @ factor, expected, rtol=0, atol=1e-12)


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    size=st.integers(1, 9),
    label=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_support_sets(counts: list[int], size: int, label: int, seed: int) -> None:
    compare_support(counts, size, label % len(counts), seed)


def compare_support(counts: list[int], size: int, label: int, seed: int) -> None:
    """Compare the classes and weights of one sample's support set with eq. 7 and 10."""
    groups = _groups(counts, 3, seed)
    x, statistics = groups[label][0], ClassStatistics.of(groups)
    classes, weights = (part[0].tolist() for part in support_sets(x[None], torch.tensor([label]), statistics, size))
    chosen, expected = support_of(x.tolist(), label, statistics.means.tolist(), counts, size)
    assert classes[: len(chosen)] == chosen
    assert weights[: len(chosen)] == pytest.approx(expected)
    assert all(w == 0 for w in weights[len(chosen) :])  # K larger than the candidates, or none at all


def test_ties_in_distance_go_to_the_lower_label() -> None:
    corners = [[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-3.0, 0.0], [0.0, -3.0]]
    groups = [
        torch.tensor([corner] * n, dtype=torch.float64) for corner, n in zip(corners, [1, 4, 4, 4, 4], strict=True)
    ]
    support = support_sets(groups[0], torch.tensor([0]), ClassStatistics.of(groups), 3)
    assert support.classes.tolist() == [[1, 2, 3]]
    assert support.weights[0].tolist() == pytest.approx([1 / 3] * 3)


def test_a_sample_on_a_mean_is_finite_and_follows_that_class() -> None:
    groups = [torch.zeros((2, 3)), torch.zeros((5, 3)), torch.ones((5, 3))]
    support = support_sets(groups[0], torch.tensor([0, 0]), ClassStatistics.of(groups), 2)
    assert support.weights[:, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert support.weights.isfinite().all()


def test_small_distances_keep_their_digits_far_from_the_origin() -> None:
    draws = torch.Generator().manual_seed(0)
    groups = [1000 + torch.rand((n, 64), generator=draws) for n in (1, 3, *[4] * 30)]  # many: torch would multiply
    x, statistics = groups[0].expand(30, -1), ClassStatistics.of(groups)
    weights = support_sets(x, torch.zeros(30, dtype=torch.int64), statistics, 40).weights[0]
    means = statistics.means.tolist()
    expected = support_of(x[0].tolist(), 0, means, [len(rows) for rows in groups], 40)[1]
    assert weights[: len(expected)].tolist() == pytest.approx(expected, rel=1e-5)


def test_support_sets_move_with_the_labels() -> None:
    counts, order = [9, 6, 4, 2, 1], [3, 0, 4, 1, 2]  # new label of each class
    groups = _groups(counts, 4, 0)
    renamed = [groups[order.index(k)] for k in range(5)]
    x = torch.cat([groups[3], groups[4]])
    before = support_sets(x, torch.tensor([3, 3, 4]), ClassStatistics.of(groups), 2)
    after = support_sets(x, torch.tensor([order[3]] * 2 + [order[4]]), ClassStatistics.of(renamed), 2)
    assert torch.equal(torch.tensor(order)[before.classes], after.classes)
    assert torch.allclose(before.weights, after.weights)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("form", ["ones", "identity"])
@pytest.mark.parametrize(
    ("counts", "label", "beta"),
    [
        ([9, 7, 5, 3], 3, 0.4),
        ([9, 7, 5, 1], 3, 0.6),  # one image: no spread of its own
        ([9, 7, 5, 3], 1, 0.7),  # fewer candidates than the support asks for
        ([9, 7, 5, 3], 0, 0.7),  # none
        ([9, 7, 5, 3], 3, 0.0),
        ([9, 7, 5, 3], 3, 1.0),
    ],
)
def test_moments_of_the_draws(
    counts: list[int], label: int, beta: float, gamma: float, form: Literal["ones", "identity"]
) -> None:
    compare_moments(counts, label, beta, gamma, form)


def compare_moments(
    counts: list[int], label: int, beta: float, gamma: float, form: Literal["ones", "identity"]
) -> None:
    """Compare mean and covariance of what one sample gives with eq. 8 and 9."""
    groups = _groups(counts, 4, 1)
    x = groups[label][0]
    drawn = _draw(x, label, beta, groups, 3, gamma=gamma, gamma_form=form)
    mean, covariance = _calibrated(x.tolist(), label, beta, [g.tolist() for g in groups], 3, gamma, form)
    variance = torch.tensor(covariance, dtype=torch.float64).diagonal()
    error = 5 * (variance / DRAWS).sqrt() + 1e-12  # five standard errors
    assert ((drawn.mean(0) - torch.tensor(mean, dtype=torch.float64)).abs() <= error).all()
    error = 5 * (2 * variance[:, None] * variance[None] / DRAWS).sqrt() + 1e-12
    assert ((drawn.T.cov() - torch.tensor(covariance, dtype=torch.float64)).abs() <= error).all()


def test_without_confidence_only_the_own_class_matters() -> None:
    groups = _groups([9, 7, 5, 3], 4, 2)
    others = [7 * rows + 1 for rows in groups[:3]] + groups[3:]
    x = groups[3][0]
    few = {"draws": 20}
    assert torch.equal(_draw(x, 3, 0.0, groups, 2, **few), _draw(x, 3, 0.0, others, 2, **few))
    assert not torch.equal(_draw(x, 3, 0.1, groups, 2, **few), _draw(x, 3, 0.1, others, 2, **few))


def test_with_full_confidence_the_sample_and_its_class_do_not_matter() -> None:
    groups = _groups([9, 7, 3], 4, 2)
    wider = [*groups[:2], groups[2] * 2]
    support = Support(torch.tensor([[0, 1]] * 8), torch.tensor([[0.3, 0.7]] * 8, dtype=torch.float64))

    def draw(x: Tensor, rows: list[Tensor], beta: float) -> Tensor:
        betas, labels = torch.full((8,), beta), torch.full((8,), 2)
        generator = torch.Generator().manual_seed(0)
        statistics = ClassStatistics.of(rows)
        return draw_calibrated(x.expand(8, -1), labels, betas, support, statistics, 0.0, "ones", generator)

    assert torch.equal(draw(groups[2][0], groups, 1.0), draw(groups[2][1], wider, 1.0))
    assert not torch.equal(draw(groups[2][0], groups, 0.9), draw(groups[2][1], groups, 0.9))
    assert not torch.equal(draw(groups[2][0], groups, 0.9), draw(groups[2][0], wider, 0.9))


def test_one_image_and_no_confidence_repeats_the_image() -> None:
    groups = _groups([9, 1], 4, 3)
    assert torch.equal(_draw(groups[1][0], 1, 0.0, groups, 3, draws=6), groups[1].expand(6, -1))


def test_noise_has_the_covariance_of_each_class() -> None:
    groups = _groups([6, 3, 1], 4, 4)
    classes = torch.arange(3).repeat(DRAWS)
    noise = ClassStatistics.of(groups).noise(classes, torch.Generator().manual_seed(0))
    for k, rows in enumerate(groups):
        expected = torch.tensor(covariance_of(rows.tolist()), dtype=torch.float64)
        variance = expected.diagonal()
        error = 5 * (2 * variance[:, None] * variance[None] / DRAWS).sqrt() + 1e-12
        assert ((noise[classes == k].T.cov() - expected).abs() <= error).all()


def test_equal_generators_give_equal_bits_and_inputs_stay() -> None:
    groups = _groups([9, 7, 2], 4, 5)
    before = [rows.clone() for rows in groups]
    x = groups[2][0]
    one, two, other = (_draw(x, 2, 0.5, groups, 2, draws=50, gamma=0.1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(before, groups, strict=True))


@given(st.lists(st.integers(0, 4), max_size=20))
def test_rows_by_class(labels: list[int]) -> None:
    groups = rows_by_class(torch.tensor(labels, dtype=torch.int64), 5)
    assert [rows.tolist() for rows in groups] == [[i for i, y in enumerate(labels) if y == k] for k in range(5)]
