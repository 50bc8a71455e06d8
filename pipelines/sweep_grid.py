"""The grids of a sweep as they are typed: KEY=VALUE,VALUE."""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from pipelines.failures import UserError


@dataclass(frozen=True)
class Axis:
    """One grid: a key of the params file and the values it takes, as they were typed."""

    key: str
    values: tuple[str, ...]


def read_axes(grids: Sequence[str]) -> list[Axis]:
    """Read KEY=VALUE,VALUE,…; values are YAML, and a comma inside brackets does not divide them.

    Raises:
        UserError: a grid is no such pair, has no values or one value twice, or a key comes twice.
    """
    axes: list[Axis] = []
    for grid in grids:
        key, equals, text = grid.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"--grid has '{grid}'; write KEY=VALUE,VALUE, such as seeds=[0],[1].")
        if key in {axis.key for axis in axes}:
            raise UserError(f"--grid has {key} twice; write all its values behind one.")
        axes.append(Axis(key, _values(key, text)))
    return axes


def _values(key: str, text: str) -> tuple[str, ...]:
    listed = f"[{text}\n]"  # YAML knows where a value ends; the values stay as they were typed
    try:
        sequence = yaml.compose(listed)
    except yaml.YAMLError:
        raise UserError(f"--grid gives {key} the values '{text}', which are not valid YAML; quote them.") from None
    assert sequence is not None, "brackets are a sequence"
    values = tuple(listed[node.start_mark.index : node.end_mark.index] for node in sequence.value)
    if not values or not all(values):
        raise UserError(f"--grid gives {key} no value, or an empty one; write KEY=VALUE,VALUE.")
    if len(set(values)) < len(values):
        raise UserError(f"--grid gives {key} one value twice; keep one.")
    return values
