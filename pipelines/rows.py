"""Which rows of a params file one method needs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # longtail imports torch, which a refusal of a command line need not wait for
    from longtail.params import Params

START = "models/"  # of a representation's start_from, before the row whose weights it takes


def chain(params: "Params", representation: str) -> list[str]:
    """Return a representation and those whose weights it starts from."""
    rows: list[str] = []
    while representation in params.representations and representation not in rows:
        rows.append(representation)
        representation = params.representations[representation].start_from.removeprefix(START)
    return rows


def only_method(content: dict[str, Any], params: "Params", method: str) -> dict[str, Any]:
    """Return a params file's content with one method and the representations below it."""
    rows = chain(params, params.methods[method].representation)
    return {
        **content,
        "representations": {row: content["representations"][row] for row in reversed(rows)},
        "methods": {method: content["methods"][method]},
    }
