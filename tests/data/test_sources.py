"""The union of sources."""

import pytest
from pydantic import TypeAdapter, ValidationError

import unions
from longtail.data.sources import Source
from longtail.data.subset import Cut


def test_every_source_writes_the_keys_of_a_cut() -> None:
    for member in unions.members(Source):
        assert issubclass(member, Cut)
        required = {key for key, field in member.model_fields.items() if field.is_required()}
        assert required == set(member.model_fields) - {"name"}, member


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(ValidationError, match=r"'digits'.*'cifar100'.*'image_list'"):
        TypeAdapter(Source).validate_python({"name": "imagenet"})
