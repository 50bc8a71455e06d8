"""How many images a class gives up for validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longtail.data.validation import Validation, holdout_size


@given(images=st.integers(0, 5000), per_class=st.integers(0, 50))
def test_holdout_is_a_tenth_at_least_one_and_never_empties_a_class(images: int, per_class: int) -> None:
    held = holdout_size(images, per_class)
    if images < 5:
        assert held == 0
    else:
        assert held == min(per_class, max(1, round(images / 10)))
        assert images - held >= 4


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="per_class"):
        Validation(source="holdout", per_class=-1)
