"""Specs: unknown keys refused, numbers written as strings accepted, nothing changes after validation."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longtail.spec import InputError, Spec


class Rate(Spec):
    """A spec as the members of the house write theirs."""

    lr: float
    epochs: int
    nesterov: bool


ROW: dict[str, Any] = {"lr": 0.1, "epochs": 3, "nesterov": True}


def test_an_unknown_key_is_refused_by_its_name() -> None:
    with pytest.raises(ValidationError, match=r"learning_rate\n\s+Extra inputs are not permitted"):
        Rate.model_validate({**ROW, "learning_rate": 0.1})


@pytest.mark.parametrize("missing", sorted(ROW))
def test_no_key_may_be_left_out(missing: str) -> None:
    with pytest.raises(ValidationError, match=rf"{missing}\n\s+Field required"):
        Rate.model_validate({key: value for key, value in ROW.items() if key != missing})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_written_as_strings_are_numbers(number: float) -> None:
    assert Rate.model_validate({**ROW, "lr": repr(number)}).lr == number


def test_what_yaml_takes_for_a_string_is_a_number() -> None:
    row = yaml.safe_load("{lr: 1e-5, epochs: 3, nesterov: true}")
    assert isinstance(row["lr"], str)  # the reason for this test: PyYAML wants 1.0e-5
    assert Rate.model_validate(row).lr == 1e-5


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), "nan", "-inf", ".1.", "fast", None, [0.1], True, False])
def test_what_is_no_finite_number_is_refused(lr: Any) -> None:
    with pytest.raises(ValidationError, match="lr"):
        Rate.model_validate({**ROW, "lr": lr})


@pytest.mark.parametrize("epochs", [2.5, "2.5", True, None])
def test_what_is_no_whole_number_is_refused(epochs: Any) -> None:
    with pytest.raises(ValidationError, match="epochs"):
        Rate.model_validate({**ROW, "epochs": epochs})


def test_a_spec_is_frozen_and_equal_specs_are_one_key() -> None:
    rate = Rate.model_validate(ROW)
    with pytest.raises(ValidationError, match="frozen"):
        rate.lr = 0.2  # type: ignore[misc]
    assert {rate, Rate.model_validate(ROW)} == {rate}


def test_input_errors_are_value_errors_with_the_sentence_as_text() -> None:
    error = InputError("plan.lr is -1. Set it above 0.")
    assert isinstance(error, ValueError)
    assert str(error) == "plan.lr is -1. Set it above 0."
