"""The table of results: metrics.json for machines, leaderboard.md for people, a short one for the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from longtail.evaluation import GROUPS, EvaluationSpec, Summary
from longtail.provenance import Provenance

Summaries = Mapping[str, Summary]  # method -> metric -> {mean, std, n, classes}, fractions in [0, 1]
Published = Mapping[str, Mapping[str, float]]  # method -> metric -> fraction in [0, 1]

SHORT = ("overall", *GROUPS)
TITLES = {
    **{name: name for name in SHORT},
    "balanced": "balanced",
    "worst_class": "worst class",
    "macro_f1": "macro-F1",
    "ece": "ECE",
    **{f"{name}_index": f"{name} by index" for name in GROUPS},
}
SMALLER_IS_BETTER = ("ece",)


def save_metrics(summaries: Summaries, path: Path) -> None:
    """Write reports/metrics.json; no commit and no time in it, so that equal results are equal bytes."""
    path.write_text(json.dumps(summaries, indent=2, allow_nan=False) + "\n")


def markdown(summaries: Summaries, spec: EvaluationSpec, provenance: Provenance, published: Published) -> str:
    """Return reports/leaderboard.md: percent, mean ± std, the best of each column bold, and where it comes from.

    Args:
        summaries: at least one, in the order of the rows.
        published: numbers to stand beside ours.
    """
    header, *rows = table_rows(summaries, _metrics(summaries), published, "**{}**")
    rule = [":---", *["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(row).replace("\n", "<br>") + " |" for row in (header, rule, *rows)]
    return "\n".join(["# Leaderboard", "", *lines, "", *_footnotes(spec, provenance), ""])


def render(summaries: Summaries, published: Published) -> Table:
    """Return the short table for the terminal: overall, many, medium, few; 80 columns hold it.

    Args:
        summaries, published: as for `markdown`; of the published numbers there is room for the overall ones.
    """
    overall: Published = {name: {"overall": row["overall"]} for name, row in published.items() if "overall" in row}
    header, *rows = table_rows(summaries, SHORT, overall, "[bold]{}[/bold]")
    table = Table(box=box.SIMPLE_HEAD, caption="Accuracy in percent, mean ± std over n seeds", caption_justify="left")
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def table_rows(summaries: Summaries, metrics: Sequence[str], published: Published, bold: str) -> list[list[str]]:
    """Return the header and one row per method, as text in percent.

    Args:
        metrics: columns, in this order; one that has published numbers is followed by a column of them.
        bold: pattern for the best of each column, when there are rows to be better than.
    """
    columns = [["method", *summaries]]
    for metric in metrics:
        columns.append([_title(summaries, metric), *_cells(summaries, metric, bold)])
        numbers = [published.get(name, {}).get(metric) for name in summaries]
        if any(number is not None for number in numbers):
            columns.append([f"{TITLES[metric]}\npublished", *map(_percent, numbers)])
    columns.append(["n", *(str(summary["overall"]["n"]) for summary in summaries.values())])
    return [list(row) for row in zip(*columns, strict=True)]


def _metrics(summaries: Summaries) -> list[str]:
    """Leave out what says nothing: ranges that were not asked for, balanced accuracy where it is the overall one."""
    first = next(iter(summaries.values()))
    same = all(_percent(s["balanced"]["mean"]) == _percent(s["overall"]["mean"]) for s in summaries.values())
    return [name for name in TITLES if name in first and not (name == "balanced" and same)]


def _title(summaries: Summaries, metric: str) -> str:
    classes = next(iter(summaries.values()))[metric].get("classes")
    show = classes is not None and metric.startswith((*GROUPS, "balanced"))
    return f"{TITLES[metric]}\n{classes} {'class' if classes == 1 else 'classes'}" if show else TITLES[metric]


def _cells(summaries: Summaries, metric: str, bold: str) -> list[str]:
    means = [_percent(summary[metric]["mean"]) for summary in summaries.values()]
    texts = [_with_std(summary[metric]) for summary in summaries.values()]
    numbers = [float(mean) for mean in means if mean != "n/a"]
    if len(set(numbers)) < 2:  # nobody to be better than
        return texts
    best = min(numbers) if metric in SMALLER_IS_BETTER else max(numbers)  # as printed: equal digits are equally bold
    return [
        bold.format(text) if mean == _percent(best / 100) else text for mean, text in zip(means, texts, strict=True)
    ]


def _with_std(entry: Mapping[str, float | int | None]) -> str:
    std = entry["std"]
    return _percent(entry["mean"]) if std is None else f"{_percent(entry['mean'])} ± {_percent(std)}"


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def _footnotes(spec: EvaluationSpec, provenance: Provenance) -> list[str]:
    return [
        "Percent, mean ± standard deviation over n seeds (divisor n − 1); bold: the best of a column. "
        "ECE: expected calibration error, 15 bins, smaller is better.",
        "",
        f"- Groups: {_groups(spec)}",
        "- Every number is of the last epoch; no test image chose an epoch, a threshold or anything else.",
        f"- Data: {provenance.data}; split {provenance.digest}.",
        f"- Seeds: {', '.join(map(str, provenance.seeds))}.",
        f"- Hardware: {provenance.hardware}.",
        f"- Commit: {provenance.commit}.",
        f"- Versions: {provenance.versions}.",
    ]


def _groups(spec: EvaluationSpec) -> str:
    text = (
        f"a class is many-shot with more than {spec.many_above} training images, few-shot with fewer than "
        f"{spec.few_below}, medium-shot between; a group is the plain mean of its classes' accuracies, and a class "
        "without test image is left out."
    )
    if spec.index_ranges is None:
        return text
    return f"{text} By index: the first {{}}, the next {{}} and the last {{}} classes.".format(*spec.index_ranges)
