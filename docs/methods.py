"""The README's table of methods, from the unions and the docstrings of their members: `python -m docs.methods`."""

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from longtail.balancers import Balancer
from longtail.learners import Learner
from longtail.loading import sampling
from longtail.losses import Loss
from longtail.training.objective import Reweighting

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- methods: written by `make readme` from the docstrings of src/longtail -->", "<!-- end of methods -->"
PARAMS = ("benchmarks/digits_all.yaml", "params.yaml")  # where an example of each method is looked for, in this order
HEADER = "| method | paper | file | kind | example |\n|---|---|---|---|---|"
KINDS = {  # union -> which part of a row of params.yaml names its member; section; what it is
    Loss: ("representations", "loss", "loss"),
    Learner: ("representations", "learner", "learner, stage one"),
    Balancer: ("methods", "balancer", "balancer, stage two"),
}
Choice = Callable[[dict[str, Any]], Any]


class Method(NamedTuple):
    """A line of the table.

    Args:
        title: what people call it.
        source: the paper, as the `Source` section of the docstring has it.
        path: of its file, from the root.
        kind: what it is a choice of.
        example: `row` and the params file that holds it, None if no row uses it.
    """

    title: str
    source: str
    path: str
    kind: str
    example: tuple[str, str] | None


def methods() -> list[Method]:
    """List every loss, the re-weighting, and every learner, sampler and balancer, in the order of their unions."""
    found = {union: [_of_union(member, union) for member in _members(union)] for union in KINDS}
    weights = _method(Reweighting, Reweighting.__doc__, "weights", "representations", lambda row: row["reweighting"])
    return [*found[Loss], weights, *found[Learner], *map(_of_sampler, _samplers()), *found[Balancer]]


def table() -> str:
    """Return the table in Markdown."""
    return "\n".join([HEADER, *map(_line, methods())])


def with_methods(readme: str) -> str:
    """Return the README's text with the table between its marks."""
    return between(readme, BEGIN, END, table())


def between(text: str, begin: str, end: str, body: str) -> str:
    """Return a text with something else between two marks, which must be there."""
    replaced, times = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{body}\n{end}", text, flags=re.DOTALL
    )
    assert times == 1, f"the README holds {times} blocks '{begin}'"
    return replaced


def paper_of(source: str) -> str:
    """Return the first paper that a `Source` section names; the file itself says the rest."""
    first = re.match(r".*?arXiv:\d+\.\d+", source)
    return first[0] if first else source.split("; ")[0].partition(", and its")[0]


def sections(docstring: str) -> dict[str, str]:
    """Return the sections of a method's docstring (Source, Differs, Limits), each on one line."""
    lines = inspect.cleandoc(docstring).splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        match = re.match(r"(Source|Differs|Limits) +(.*)", line)
        if match:
            name, found[match[1]] = match[1], match[2]
        elif name and line.startswith("    "):
            found[name] += f" {line.strip()}"
        else:
            name = ""
    return found


def _members(union: Any) -> list[Any]:
    inner = get_args(union)[0]
    return list(get_args(inner)) or [inner]


def _samplers() -> list[str]:
    return [*get_args(sampling.Fixed), _name(sampling.Deferred)]


def _name(member: Any) -> str:
    name: str = get_args(member.model_fields["name"].annotation)[0]
    return name


def _of_union(member: Any, union: Any) -> Method:
    section, key, kind = KINDS[union]
    docstring = inspect.getmodule(member).__doc__
    return _method(member, docstring, kind, section, lambda row: row[key]["name"] == _name(member))


def _of_sampler(name: str) -> Method:
    """One file holds all samplers, and its Source names those that have a paper of their own."""

    def named(sampler: Any) -> bool:
        return bool(name == (sampler["name"] if isinstance(sampler, dict) else sampler))

    def samples(row: dict[str, Any]) -> bool:
        return any(map(named, row["samplers"]))

    method = _method(sampling.Deferred, sampling.__doc__, "sampler", "representations", samples)
    example = method.example or _example("methods", lambda row: named(row["balancer"].get("sampler")))
    papers = method.source.split("; ")
    own = [paper.removeprefix(f"{name}: ") for paper in papers if paper.startswith(f"{name}: ")]
    return method._replace(title=f"{name.replace('_', '-')} sampling", source=(own or papers)[0], example=example)


def _method(member: Any, docstring: str | None, kind: str, section: str, uses: Choice) -> Method:
    assert docstring, f"{member} has no docstring"
    title = re.split(r"[:.]( |\n|$)", textwrap.dedent(docstring))[0]
    path = Path(inspect.getfile(member)).relative_to(ROOT).as_posix()
    return Method(" ".join(title.split()), sections(docstring)["Source"], path, kind, _example(section, uses))


def _example(section: str, uses: Choice) -> tuple[str, str] | None:
    for path in PARAMS:
        rows = yaml.safe_load((ROOT / path).read_text())[section] if (ROOT / path).exists() else {}
        for name, row in rows.items():
            if uses(row):
                return name, path
    return None


def _line(method: Method) -> str:
    paper = re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper_of(method.source))
    file = f"[`{method.path.removeprefix('src/longtail/')}`]({method.path})"
    example = f"[`{method.example[0]}`]({method.example[1]})" if method.example else "—"
    cells = (method.title, paper, file, method.kind, example)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    README.write_text(with_methods(README.read_text()))
