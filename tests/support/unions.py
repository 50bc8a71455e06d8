"""The members of a union of specs: what a contract test runs over."""

from typing import Any, get_args


def members(union: Any) -> list[Any]:
    """List the classes of an annotated union, or of a union that has one member so far."""
    inner = get_args(union)[0] if get_args(union) else union
    return list(get_args(inner)) or [inner]


def name_of(member: Any) -> str:
    """Return the name that selects a member in params.yaml."""
    name: str = get_args(member.model_fields["name"].annotation)[0]
    return name
