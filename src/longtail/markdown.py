"""Tables in markdown."""

import re
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines: the first column to the left, the others to the right."""
    rule = [":---", *["---:"] * (len(header) - 1)]
    lines = [header, rule, *([cell(text) for text in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(text: str) -> str:
    """Keep a text, such as the name of a class, from ending a cell or a line."""
    return re.sub(r"\s+", " ", text.replace("|", r"\|"))
