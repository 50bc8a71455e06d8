"""The table of results: metrics.json for machines, leaderboard.md for people, a short one for the terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from longtail.evaluation import GROUPS, EvaluationSpec, Summary
from longtail.markdown import table
from longtail.report.provenance import Provenance

Summaries = Mapping[str, Summary]  # method -> metric -> {mean, std, n, classes}, fractions in [0, 1]
Parameters = Mapping[str, int]  # method -> learnable numbers of the network that serves
Published = Mapping[str, Mapping[str, float]]  # method -> metric -> fraction in [0, 1]
Origins = Mapping[str, Sequence[Provenance]]  # method -> where the numbers of its seeds come from
NOTHING: Mapping[str, str] = {}

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


def markdown(
    summaries: Summaries,
    parameters: Parameters,
    spec: EvaluationSpec,
    origins: Origins,
    published: Published,
    missing: Mapping[str, str] = NOTHING,
) -> str:
    """Return leaderboard.md: percent, mean ± std, the best of each column bold, and where it comes from.

    Args:
        summaries: at least one, in the order of the rows.
        parameters: of every method in `summaries`; shown in millions.
        origins: of every method in `summaries`.
        published: numbers to stand beside ours.
        missing: method -> why the table lacks it.
    """
    header, *rows = table_rows(summaries, _metrics(summaries), published, "**{}**", parameters)
    lines = table([title.replace("\n", "<br>") for title in header], rows)
    return "\n".join(["# Leaderboard", "", *lines, "", *_footnotes(spec, origins, missing), ""])


def lacking(missing: Mapping[str, str]) -> str:
    """Return the line that names the rows that a table lacks, and why."""
    return f"- Missing: {'; '.join(f'{name} ({why})' for name, why in missing.items())}."


def render(summaries: Summaries, published: Published) -> Table:
    """Return the short table for the terminal: overall, many, medium, few; 80 columns hold it.

    Args:
        summaries, published: as for `markdown`; of the published numbers there is room for the overall ones.
    """
    overall: Published = {name: {"overall": row["overall"]} for name, row in published.items() if "overall" in row}
    header, *rows = table_rows(summaries, SHORT, overall, "[bold]{}[/bold]")
    shown = Table(box=box.SIMPLE_HEAD, caption="Accuracy in percent, mean ± std over n seeds", caption_justify="left")
    for i, title in enumerate(header):
        shown.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def table_rows(
    summaries: Summaries, metrics: Sequence[str], published: Published, bold: str, parameters: Parameters | None = None
) -> list[list[str]]:
    """Return the header and one row per method, as text: metrics in percent, parameters in millions.

    Args:
        metrics: columns, in this order; one that has published numbers is followed by a column of them.
        bold: pattern for the best of each column, when there are rows to be better than.
        parameters: of every method, for a column of them; None leaves the column out.
    """
    columns = [["method", *summaries]]
    for metric in metrics:
        columns.append([_title(summaries, metric), *_cells(summaries, metric, bold)])
        numbers = [published.get(name, {}).get(metric) for name in summaries]
        if any(number is not None for number in numbers):
            columns.append([f"{TITLES[metric]}\npublished", *map(_percent, numbers)])
    if parameters is not None:
        columns.append(["parameters\nmillions", *(_millions(parameters[name]) for name in summaries)])
    columns.append(["n", *(str(summary["overall"]["n"]) for summary in summaries.values())])
    return [list(row) for row in zip(*columns, strict=True)]


def _metrics(summaries: Summaries) -> list[str]:
    """Leave out empty columns: ranges that the params do not name, balanced accuracy where it is the overall one."""
    first = next(iter(summaries.values()))
    same = all(_percent(s["balanced"]["mean"]) == _percent(s["overall"]["mean"]) for s in summaries.values())
    return [name for name in TITLES if name in first and not (name == "balanced" and same)]


def _title(summaries: Summaries, metric: str) -> str:
    classes = next(iter(summaries.values()))[metric].get("classes")
    show = classes is not None and metric.startswith((*GROUPS, "balanced"))
    return f"{TITLES[metric]}\n{classes} {'class' if classes == 1 else 'classes'}" if show else TITLES[metric]


def _cells(summaries: Summaries, metric: str, bold: str) -> list[str]:
    means = [_percent(summary[metric]["mean"]) for summary in summaries.values()]
    texts = [percent_with_std(summary[metric]) for summary in summaries.values()]
    numbers = [float(mean) for mean in means if mean != "n/a"]
    if len(set(numbers)) < 2:  # no row is better than another
        return texts
    best = min(numbers) if metric in SMALLER_IS_BETTER else max(numbers)  # as printed: equal digits are equally bold
    return [
        bold.format(text) if mean == _percent(best / 100) else text for mean, text in zip(means, texts, strict=True)
    ]


def percent_with_std(entry: Mapping[str, float | int | None]) -> str:
    """Return a metric's {mean, std} (fractions) as "49.7 ± 0.3", without ± for a single seed."""
    std = entry["std"]
    return _percent(entry["mean"]) if std is None else f"{_percent(entry['mean'])} ± {_percent(std)}"


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def _millions(count: int) -> str:
    """Return millions with one decimal from a million on (23.5), two significant digits below (0.46), as papers do."""
    millions = count / 1e6
    return f"{millions:.1f}" if millions >= 1 else f"{millions:#.2g}"


def _footnotes(spec: EvaluationSpec, origins: Origins, missing: Mapping[str, str]) -> list[str]:
    sources = {
        "Data": {name: _joined(f"{one.data}; split {one.digest}" for one in each) for name, each in origins.items()},
        "Seeds": {name: _joined(str(seed) for one in each for seed in one.seeds) for name, each in origins.items()},
        "Hardware": {name: _joined(one.hardware for one in each) for name, each in origins.items()},
        "Commit": {name: _joined(one.commit for one in each) for name, each in origins.items()},
        "Versions": {name: _joined(one.versions for one in each) for name, each in origins.items()},
    }
    return [
        "Percent, mean ± standard deviation over n seeds (divisor n − 1); bold: the best of a column. "
        "ECE: expected calibration error, 15 bins, smaller is better.",
        "",
        *([lacking(missing)] if missing else []),
        f"- Groups: {_groups(spec)}",
        "- Every number is of the last epoch; no test image chose an epoch, a threshold or anything else.",
        "- Parameters: the learnable numbers of the network that serves, feature extractor and classifier.",
        *(f"- {title}: {_shared(texts)}." for title, texts in sources.items()),
    ]


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _shared(texts: Mapping[str, str]) -> str:
    """Return what all methods have in common, or each text with the methods that it is of."""
    owners: dict[str, list[str]] = {}
    for name, text in texts.items():
        owners.setdefault(text, []).append(name)
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in owners.items())


def _groups(spec: EvaluationSpec) -> str:
    text = (
        f"a class is many-shot with more than {spec.many_above} training images, few-shot with fewer than "
        f"{spec.few_below}, medium-shot between; a group is the plain mean of its classes' accuracies, and a class "
        "without test image is left out."
    )
    if spec.index_ranges is None:
        return text
    return f"{text} By index: the first {{}}, the next {{}} and the last {{}} classes.".format(*spec.index_ranges)
