"""Which rows of a params file one method needs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # longtail imports torch, which a refusal of a command line need not wait for
    from longtail.params import Params


def only_method(content: dict[str, Any], params: "Params", method: str) -> dict[str, Any]:
    """Return a params file's content with one method and the representations below it."""
    rows = params.lineage(params.methods[method].representation)
    return {
        **content,
        "representations": {row: content["representations"][row] for row in reversed(rows)},
        "methods": {method: content["methods"][method]},
    }
