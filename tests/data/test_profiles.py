"""Class counts against the published tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.data.profiles import exponential, pareto, step

# images per class, classes, imbalance factor, total, first, last (Cui et al. 2019, Cao et al. 2019)
PUBLISHED = [
    (5000, 10, 10, 20431, 5000, 500),
    (5000, 10, 20, 17023, 5000, 250),
    (5000, 10, 50, 13996, 5000, 100),
    (5000, 10, 100, 12406, 5000, 50),
    (5000, 10, 200, 11203, 5000, 25),
    (500, 100, 10, 19573, 500, 50),
    (500, 100, 20, 15907, 500, 25),
    (500, 100, 50, 12608, 500, 10),
    (500, 100, 100, 10847, 500, 5),
    (500, 100, 200, 9502, 500, 2),
]
SHOTS = {  # many (> 100), medium, few (< 20)
    (10, 10): (10, 0, 0),
    (10, 50): (9, 1, 0),
    (10, 100): (8, 2, 0),
    (10, 200): (7, 3, 0),
    (100, 10): (69, 31, 0),
    (100, 20): (53, 47, 0),
    (100, 50): (41, 41, 18),
    (100, 100): (35, 35, 30),
    (100, 200): (30, 31, 39),
}
CIFAR10_LISTS = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}


def shots(counts: list[int]) -> tuple[int, int, int]:
    many, few = sum(count > 100 for count in counts), sum(count < 20 for count in counts)
    return many, len(counts) - many - few, few


@pytest.mark.parametrize(("n_max", "classes", "factor", "total", "first", "last"), PUBLISHED)
def test_exponential_gives_the_published_counts(
    n_max: int, classes: int, factor: int, total: int, first: int, last: int
) -> None:
    counts = exponential(n_max, classes, factor)
    assert (sum(counts), counts[0], counts[-1]) == (total, first, last)
    if (classes, factor) in SHOTS:
        assert shots(counts) == SHOTS[classes, factor]


@pytest.mark.parametrize("factor", CIFAR10_LISTS)
def test_exponential_gives_the_published_lists_of_cifar10(factor: int) -> None:
    assert exponential(5000, 10, factor) == CIFAR10_LISTS[factor]


def test_exponential_gives_the_published_list_of_cifar100() -> None:
    counts = exponential(500, 100, 100)
    assert counts[:5] == [500, 477, 455, 434, 415]
    assert counts[-6:] == [6, 6, 5, 5, 5, 5]
    assert (counts[34], counts[35], counts[69], counts[70]) == (102, 98, 20, 19)


@given(n_max=st.integers(1, 10_000), classes=st.integers(2, 300))
def test_the_smallest_class_of_the_largest_factor_has_one_image(n_max: int, classes: int) -> None:
    for counts in (exponential(n_max, classes, n_max), step(n_max, classes, n_max), pareto(n_max, classes, n_max, 2)):
        assert counts[-1] == 1


@pytest.mark.parametrize(("n_max", "classes"), [(5000, 10), (500, 100)])
@pytest.mark.parametrize(("factor", "total"), [(100, 25250), (50, 25500), (10, 27500)])
def test_step_gives_the_published_totals(n_max: int, classes: int, factor: int, total: int) -> None:
    counts = step(n_max, classes, factor)
    assert sum(counts) == total
    assert counts == [n_max] * (classes // 2) + [n_max // factor] * (classes // 2)


def test_step_of_an_odd_number_of_classes_leaves_none_out() -> None:
    assert step(100, 5, 10) == [100, 100, 10, 10, 10]


@pytest.mark.parametrize(
    ("n_max", "classes", "factor", "shape", "total", "groups"),
    [(1280, 1000, 256, 7.459, 115_845, (393, 464, 143)), (4980, 365, 996, 1.873, 62_499, (146, 160, 59))],
)
def test_pareto_stands_in_for_imagenet_lt_and_places_lt(
    n_max: int, classes: int, factor: int, shape: float, total: int, groups: tuple[int, int, int]
) -> None:
    counts = pareto(n_max, classes, factor, shape)
    assert (counts[0], counts[-1]) == (n_max, 5)
    assert abs(sum(counts) - total) <= 2  # the shape is rounded to three digits
    assert shots(counts) == groups


@settings(max_examples=300)
@given(n_max=st.integers(1, 10_000), classes=st.integers(2, 300), factor=st.floats(1, 1000), shape=st.floats(0.5, 20))
def test_every_profile_falls_from_n_max(n_max: int, classes: int, factor: float, shape: float) -> None:
    for counts in (
        exponential(n_max, classes, factor),
        step(n_max, classes, factor),
        pareto(n_max, classes, factor, shape),
    ):
        assert len(counts) == classes
        assert counts[0] == n_max
        assert counts == sorted(counts, reverse=True)
        assert abs(counts[-1] - n_max / factor) <= 1


@given(n_max=st.integers(1, 10_000), classes=st.integers(2, 300), shape=st.floats(0.5, 20))
def test_factor_one_is_balanced(n_max: int, classes: int, shape: float) -> None:
    for counts in (exponential(n_max, classes, 1), step(n_max, classes, 1), pareto(n_max, classes, 1, shape)):
        assert counts == [n_max] * classes
