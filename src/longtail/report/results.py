"""The results of a params file: a folder to which every run adds its rows, seed by seed, each with its origin.

    python -m longtail.report.results FOLDER [METHOD ...]     evaluations/ of the methods (by default all) join FOLDER

    metrics.json     method -> summary, parameters, recipe, and each seed's metrics with commit, hardware and versions
    leaderboard.md   the table, the paper's numbers beside ours; rows that are missing are named
    histories.csv    every epoch of every training, to compare curves with
    params.yaml      the file itself

A change of any file below a result makes DVC's cache of it stale; this folder keeps it. A row stays until its recipe
changes: its part of params.yaml, without seeds and paths. Seeds add up in it. A result whose metrics come out the same
again keeps its first origin.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from longtail.evaluation import Metrics, summarize
from longtail.images.split_files import load_split
from longtail.params import Params, load_params
from longtail.report.leaderboard import lacking, markdown
from longtail.report.provenance import Provenance, commit, describe, hardware, versions
from longtail.spec import InputError
from longtail.workspace import home, only_writer

Row = dict[str, Any]
Rows = dict[str, Row]
ASIDE = ("path", "download")  # keys of `data` that change no number
HISTORIES = {"train": "models", "finetune": "classifiers"}
KEYS = ("stage", "row", "seed", "epoch")  # of a line of histories.csv
DIGITS = 6  # significant ones in histories.csv


def add(folder: Path, params: Params, methods: tuple[str, ...], root: Path) -> None:
    """Add the methods' evaluations in the working folder to a folder of results.

    Args:
        methods: rows of `methods` that have been evaluated with `params`.
        root: the checkout whose commit made them.
    """
    origin = _origin(params, root)
    documents = {name: json.loads(Path("evaluations", name, "metrics.json").read_text()) for name in methods}
    with _writing(folder):
        rows = load(folder)
        for name, document in documents.items():
            rows[name] = merged(rows.get(name), document, recipe_of(params, name), origin)
        _save(folder, rows, list(_epochs(params, methods)), params)


def bring(folder: Path, theirs: Path, params: Params) -> list[str]:
    """Add to a folder of results what another machine's folder has.

    Args:
        params: of the table.

    Returns:
        The methods that stay away: their recipe or images are not those of the row that is here.
    """
    with _writing(folder):
        rows, strangers = load(folder), []
        for name, row in load(theirs).items():
            if both := joined(rows.get(name), row):
                rows[name] = both
            else:
                strangers.append(name)
        mine = {tuple(line[key] for key in KEYS[:3]) for line in read_histories(folder / "histories.csv")}
        new = [
            line for line in read_histories(theirs / "histories.csv") if tuple(line[k] for k in KEYS[:3]) not in mine
        ]
        _save(folder, rows, new, params)
    return strangers


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    with only_writer(f"results {folder.name}", home() / ".longtail" / "locks"):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def _save(folder: Path, rows: Rows, histories: list[dict[str, str]], params: Params) -> None:
    _write(folder / "histories.csv", _with_histories(folder / "histories.csv", histories))
    _write(folder / "leaderboard.md", table(rows, params))
    _write(folder / "metrics.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")


def load(folder: Path) -> Rows:
    """Read the rows of a folder of results; none where there is no folder."""
    file = folder / "metrics.json"
    rows: Rows = json.loads(file.read_text()) if file.exists() else {}
    return rows


def recipe_of(params: Params, method: str) -> dict[str, Any]:
    """Return all numbers that decide a method's result, but for seeds and where files lie, as JSON values."""
    chosen = params.methods[method]
    return {
        "data": data_of(params),
        "stage_one": stage_one_of(params, chosen.representation),
        "extract": params.extract.model_dump(mode="json"),
        "balancer": chosen.balancer.model_dump(mode="json"),
        "evaluation": params.evaluation.model_dump(mode="json"),
    }


def data_of(params: Params) -> dict[str, Any]:
    """Return what decides a split."""
    return params.data.model_dump(mode="json", exclude=set(ASIDE))


def stage_one_of(params: Params, representation: str) -> dict[str, Any]:
    """Return what decides a representation and those that it starts from, by depth; their names do not matter."""
    return {
        str(depth): {
            **params.representations[row].model_dump(mode="json", exclude={"start_from"}),
            "network": params.network_of(row).model_dump(mode="json"),
            "plan": params.plan_of(row).model_dump(mode="json"),
        }
        for depth, row in enumerate(params.lineage(representation))
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of an old recipe that a new one lacks or has another value for.

    Keys that only the new one has came with later code, which leaves them at what the code did before.
    """
    for key, value in old.items():
        path = f"{prefix}{key}"
        if key not in new:
            yield path
        elif isinstance(value, Mapping) and isinstance(new[key], Mapping):
            yield from differences(value, new[key], f"{path}.")
        elif value != new[key]:
            yield path


def merged(old: Row | None, document: Mapping[str, Any], recipe: Mapping[str, Any], origin: Mapping[str, str]) -> Row:
    """Return a row with an evaluation's seeds added; a row of another recipe or of other images is replaced.

    Args:
        document: evaluations/<method>/metrics.json.
        origin: commit, hardware, versions, data and split of this run.
    """
    if old is None or any(differences(old["recipe"], recipe)) or _digests(old) != {origin["digest"]}:
        old = {"seeds": {}}
    classes = {name: entry["classes"] for name, entry in document["summary"].items() if "classes" in entry}
    seeds = dict(old["seeds"])
    for seed, values in document["seeds"].items():
        metrics = {name: value for name, value in values.items() if name != "per_class"}
        if seeds.get(seed, {}).get("metrics") != metrics:
            seeds[seed] = {"metrics": metrics, **origin}
    return _row(seeds, classes, document["parameters"], recipe)


def joined(mine: Row | None, theirs: Row) -> Row | None:
    """Return a row with the seeds of another machine's added; None where the two are of different recipes or images."""
    if mine is None:
        return theirs
    if any(differences(theirs["recipe"], mine["recipe"])) or _digests(mine) != _digests(theirs):
        return None
    classes = {name: entry["classes"] for name, entry in mine["summary"].items() if "classes" in entry}
    return _row({**theirs["seeds"], **mine["seeds"]}, classes, mine["parameters"], mine["recipe"])


def _row(seeds: Mapping[str, Any], classes: dict[str, int], parameters: int, recipe: Mapping[str, Any]) -> Row:
    ordered = {seed: seeds[seed] for seed in sorted(seeds, key=int)}
    return {
        "summary": summarize([Metrics(entry["metrics"], classes, ()) for entry in ordered.values()]),
        "parameters": parameters,
        "recipe": dict(recipe),
        "seeds": ordered,
    }


def _digests(row: Row) -> set[str]:
    return {entry["digest"] for entry in row["seeds"].values()}


def table(rows: Rows, params: Params) -> str:
    """Return leaderboard.md: the rows that the params file has, by its recipes, and what is missing."""
    missing = {name: reason for name in params.methods if (reason := lack(rows, params, name))}
    shown = {name: rows[name] for name in params.methods if name not in missing}
    if not shown:
        return "\n".join(["# Leaderboard", "", "No row has been run by this file's recipe.", "", lacking(missing), ""])
    origins = {name: list(_provenances(row)) for name, row in shown.items()}
    summaries = {name: row["summary"] for name, row in shown.items()}
    parameters = {name: row["parameters"] for name, row in shown.items()}
    return markdown(summaries, parameters, params.evaluation, origins, params.published, missing)


def lack(rows: Rows, params: Params, method: str) -> str:
    """Return why there is no number of a method for this params file: "" if there is one."""
    if method not in rows:
        return "not run"
    changed = list(differences(rows[method]["recipe"], recipe_of(params, method)))
    if not changed:
        return ""
    commits = ", ".join(dict.fromkeys(entry["commit"] for entry in rows[method]["seeds"].values()))
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"run by another recipe at {commits}: {changed[0]}{more}"


def _origin(params: Params, root: Path) -> dict[str, str]:
    split = load_split(Path("data/split"))
    provenance = Provenance(
        data=describe(params.data.name, params.data.profile, split),
        digest=split.digest,
        seeds=(),
        hardware=hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        commit=commit(root, ("params.yaml",)),  # the recipe says what stands there
        versions=versions(),
    )
    return {key: value for key, value in asdict(provenance).items() if key != "seeds"}


def _provenances(row: Row) -> Iterator[Provenance]:
    for seed, entry in row["seeds"].items():
        origin = {key: value for key, value in entry.items() if key != "metrics"}
        yield Provenance(seeds=(int(seed),), **origin)


def _with_histories(file: Path, new: list[dict[str, str]]) -> str:
    """Return histories.csv with these lines in place of older ones of the same trainings."""
    again = {tuple(line[key] for key in KEYS[:3]) for line in new}
    kept = [line for line in read_histories(file) if tuple(line[key] for key in KEYS[:3]) not in again]
    lines = sorted(kept + new, key=lambda line: (line["stage"] != "train", line["row"], int(line["seed"])))
    columns = [*KEYS, *sorted({name for line in lines for name, value in line.items() if value} - set(KEYS))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def read_histories(file: Path) -> list[dict[str, str]]:
    """Read the lines of a histories.csv; none where there is no file."""
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def _epochs(params: Params, methods: tuple[str, ...]) -> Iterator[dict[str, str]]:
    chosen = [params.methods[method].representation for method in methods]
    rows = {"train": [row for name in chosen for row in params.lineage(name)], "finetune": list(methods)}
    for stage, folder in HISTORIES.items():
        for row in dict.fromkeys(rows[stage]):
            for seed in params.seeds:
                lines = Path(folder, row, f"seed_{seed}", "history.jsonl").read_text().splitlines()
                for epoch in map(json.loads, lines):
                    yield {"stage": stage, "row": row, "seed": str(seed), **_scalars(epoch)}


def _scalars(epoch: Mapping[str, Any]) -> dict[str, str]:
    """Write an epoch's numbers shortly; lists (β of every class) are left out."""
    numbers = {name: value for name, value in epoch.items() if isinstance(value, int | float)}
    return {name: f"{value:.{DIGITS}g}" for name, value in numbers.items()}


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(text)
    temporary.replace(file)


def main() -> int:
    """Add evaluations to a folder of results; exit code 2 and a sentence where there is nothing to add."""
    try:
        if len(sys.argv) < 2:
            raise InputError("longtail.report.results takes a folder, and the methods to add if not all.")
        params = load_params()
        methods = tuple(sys.argv[2:]) or tuple(params.methods)
        for method in methods:
            if not Path("evaluations", method, "metrics.json").is_file():
                raise InputError(f"evaluations/{method} is missing. Run `dvc repro evaluate@{method}` first.")
        add(Path(sys.argv[1]), params, methods, Path.cwd())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
