"""The grid of candidates, and what is chosen from it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from banks import make_bank, make_run
from longtail.features.grid import Grid, choose_tau
from longtail.models.classifier import Classifier
from longtail.spec import InputError
from longtail.training.loop import History

ZERO_TO_FOUR = Grid(start=0, stop=4, step=1)


def test_grid_includes_both_ends() -> None:
    assert Grid(start=0, stop=2, step=0.1).values() == [round(0.1 * i, 10) for i in range(21)]
    assert Grid(start=0.5, stop=0.5, step=1).values() == [0.5]
    assert Grid(start=0, stop=1, step=0.4).values() == [0.0, 0.4, 0.8]


@given(st.integers(0, 20), st.integers(0, 30), st.sampled_from([0.1, 0.05, 0.25, 0.3]))
def test_a_whole_number_of_steps_reaches_the_stop(first: int, more: int, step: float) -> None:
    values = Grid(start=first * step, stop=(first + more) * step, step=step).values()
    assert values == [pytest.approx((first + i) * step) for i in range(more + 1)]


def _right_at(*taus: float) -> dict[float, Classifier]:
    """Classifiers that know the class means at some taus, and call everything class 0 at the others."""
    means = make_bank().class_means
    knows = Classifier(means, -means.square().sum(1) / 2)
    blind = Classifier(torch.zeros_like(means), torch.tensor([1.0, 0, 0, 0, 0]))
    return {tau: knows if tau in taus else blind for tau in ZERO_TO_FOUR.values()}


def test_the_smallest_of_the_best_is_chosen_and_logged() -> None:
    rows: list[History] = []
    table = _right_at(2.0, 3.0)
    classifier, history = choose_tau(ZERO_TO_FOUR, table.__getitem__, make_bank(), make_run(log=rows.append))
    assert classifier is table[2.0]
    assert history == rows == [{"epoch": 0, "tau": 2.0, "val_accuracy": 1.0}]


def test_a_number_is_taken_as_it_is() -> None:
    table = _right_at(2.0)
    classifier, history = choose_tau(4.0, table.__getitem__, make_bank(), make_run())
    assert classifier is table[4.0]
    assert history == [{"epoch": 0, "tau": 4.0, "val_accuracy": pytest.approx(0.2)}]


def test_a_choice_needs_validation_images_and_a_number_none() -> None:
    bank, table = make_bank(val_per_class=0), _right_at(2.0)
    with pytest.raises(InputError, match=r"data.validation.per_class to 20, or give balancer.tau a number"):
        choose_tau(ZERO_TO_FOUR, table.__getitem__, bank, make_run())
    assert choose_tau(2.0, table.__getitem__, bank, make_run())[1] == [{"epoch": 0, "tau": 2.0}]
