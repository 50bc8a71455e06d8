"""Run rows of a params file on a machine that has torch but neither dvc nor mlflow nor prefect.

    python -m pipelines.bare benchmarks/csa_cifar.yaml seeds=[0] --methods ce,csa [--split-of FOLDER]

The stages are the same programs, started one after another in .longtail/bare/<name>/ with tracking off; a stage whose
outputs are there for the same params and code is not run again, and one that was killed continues from its last epoch.
Rows join benchmarks/results/<file>/ as they do with dvc. `python -m pipelines.table --bring FOLDER` takes a copy of
that machine's repository home.
"""

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.failures import PipelineError, UserError
from pipelines.processes import Sink, run
from pipelines.repro import check_params, show_leaderboard, stop_on_sigterm
from pipelines.variants import methods_of, read_variant

OUTPUTS = {
    "train": "models/{}",
    "extract": "features/{}",
    "finetune": "classifiers/{}",
    "evaluate": "evaluations/{}",
}
SPLIT = Path("data") / "split"


def run_bare(root: Path, params: Path, words: Sequence[str], names: str | None, split_of: Path | None) -> Path:
    """Run rows of a params file stage by stage and return the folder of its results.

    Args:
        words: KEY=VALUE, changes to the file.
        names: rows of `methods`, with commas between; None for all.
        split_of: a run's folder from another machine, whose split is taken; None to make it here.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    variant = read_variant(params, words)
    folder = root / ".longtail" / "bare" / variant.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(variant.text)
    check_params(folder, _to_stderr, terminal=True)
    methods = methods_of(variant, names) if names is not None else methods_of(variant, ",".join(_all_methods(folder)))
    if split_of is not None:
        _take_split(split_of, folder)
    for stage, row in _stages(folder, methods):
        _run_stage(root, folder, stage, row)
    results = root / "benchmarks" / "results" / variant.table.name
    _start(root, folder, "longtail.report.results", str(results), *methods)
    (results / "params.yaml").write_text(variant.table.text)
    return results


def _all_methods(folder: Path) -> list[str]:
    from longtail.params import load_params

    return list(load_params(folder / "params.yaml").methods)


def _take_split(run_folder: Path, folder: Path) -> None:
    """Link the split of another run's folder, if it is the one of these params.

    Raises:
        UserError: there is none, or it is of other data.
    """
    from longtail.params import load_params
    from longtail.report.results import data_of, differences
    from longtail.spec import InputError

    if not (run_folder / SPLIT / "classes.json").is_file():
        raise UserError(f"--split-of is '{run_folder}', which has no {SPLIT}. Name a run's folder, with params.yaml.")
    try:
        theirs = data_of(load_params(run_folder / "params.yaml"))
    except InputError as error:
        raise UserError(f"--split-of is '{run_folder}': {error}") from None
    if changed := list(differences(theirs, data_of(load_params(folder / "params.yaml")))):
        raise UserError(
            f"--split-of is '{run_folder}', whose data.{changed[0]} is another. Name a run of the same data."
        )
    target = folder / SPLIT
    if not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((run_folder / SPLIT).resolve(), target_is_directory=True)


def _stages(folder: Path, methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the stages that methods stand on, in an order in which they can run."""
    from longtail.params import load_params

    params = load_params(folder / "params.yaml")
    yield "split", ""
    for method in methods:
        lineage = params.lineage(params.methods[method].representation)
        yield from (("train", row) for row in reversed(lineage))
        yield "extract", lineage[0]
        yield "finetune", method
        yield "evaluate", method


def _run_stage(root: Path, folder: Path, stage: str, row: str) -> None:
    output = folder / (OUTPUTS[stage].format(row) if row else SPLIT)
    marker = folder / "made" / f"{stage}@{row}"
    made_of = _identity(folder, stage, row)
    if output.is_symlink() or (output.is_dir() and marker.is_file() and marker.read_text() == made_of):
        return
    _start(root, folder, f"longtail.stages.{stage}", *filter(None, [row]))
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(made_of)


def _identity(folder: Path, stage: str, row: str) -> str:
    """Identify what a stage's outputs follow from: params and code."""
    from longtail.params import load_params
    from longtail.report.results import data_of, recipe_of, stage_one_of
    from longtail.workspace import code_digest, digest_of

    params = load_params(folder / "params.yaml")
    own: object = data_of(params)
    if stage in ("train", "extract"):
        own = (own, stage_one_of(params, row), params.extract.model_dump(mode="json") if stage == "extract" else None)
    elif row:
        own = recipe_of(params, row)
    return digest_of(stage, row, params.seeds, own, code_digest())


def _start(root: Path, folder: Path, module: str, *arguments: str) -> None:
    extra = {
        "LONGTAIL_HOME": str(root),
        "LONGTAIL_TRACKING": "off",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")])),
    }
    finished = run([sys.executable, "-m", module, *arguments], folder, _to_stderr, extra=extra, terminal=True)
    if finished.code:
        kind = UserError if finished.code == UserError.exit_code else PipelineError
        raise kind(f"{' '.join([module, *arguments])} ended with exit code {finished.code}.")


_to_stderr: Sink = sys.stderr.buffer.write


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="pipelines.bare", description="Run rows of a params file without dvc.")
    parser.add_argument("params", help="the params file")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to it")
    parser.add_argument("--methods", help="rows to run, with commas between; all by default")
    parser.add_argument("--split-of", type=Path, help="a run's folder with the split to take; by default it is made")
    return parser.parse_intermixed_args()


def main() -> int:
    """Run rows without dvc and return the exit code."""
    arguments = _arguments()
    stop_on_sigterm()
    root = Path.cwd()
    try:
        file = Path(arguments.params).resolve()
        results = run_bare(root, file, arguments.changes, arguments.methods, arguments.split_of)
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("Stopped. Run it again to continue from the last epoch.", file=sys.stderr)
        return 130
    show_leaderboard(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
