"""Mutation tests: change one step of our code and see that the comparison with the oracle then fails."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest


def mutate(patch: pytest.MonkeyPatch, function: Callable[..., Any], old: str, new: str) -> None:
    """Replace a piece of a function's source until the patch is undone, wherever the function has been imported.

    Args:
        function: ours, or a method of ours; not one that closes over variables of its own.
        old: occurs once in its source.

    Raises:
        AssertionError: if it does not: the code has changed, and the mutation must follow it.
    """
    inner: Any = _innermost(function)
    source = textwrap.dedent(inspect.getsource(inner))
    assert source.count(old) == 1, f"{inner.__qualname__} holds {source.count(old)} times: {old}"
    changed = f"from __future__ import annotations\n{source.replace(old, new)}"
    if inner.__code__.co_freevars:  # super() needs a __class__ around it to compile
        body = textwrap.indent(source.replace(old, new), "    ")
        changed = f"def outer(__class__):\n{body}\n    return {inner.__name__}\n{inner.__name__} = outer(None)"
    namespace: dict[str, Any] = {}
    exec(changed, inner.__globals__, namespace)
    patch.setattr(inner, "__code__", _innermost(namespace[inner.__name__]).__code__)


def _innermost(function: Any) -> Any:
    """Return the plain function under class methods and decorators."""
    return inspect.unwrap(getattr(function, "__func__", function))


def fails(compare: Callable[[], None]) -> bool:
    """Tell whether a comparison finds a difference; other errors count as themselves."""
    try:
        compare()
    except AssertionError:
        return True
    return False
