"""Run another params file in a clone of its own, beside whatever the workspace holds.

    make run PARAMS=benchmarks/cifar100_lt.yaml
    make run PARAMS=benchmarks/cifar100_lt.yaml SET="data.imbalance_factor=50 seeds=[0]"
    make run PARAMS=benchmarks/csa_cifar.yaml METHODS=ce,csa

The clone lies in the git-ignored .longtail/runs/<name>. It trains the code of HEAD, shares this repository's DVC cache
(what was ever trained is not trained twice), MLflow database, checkpoints and raw data. Running the same file again
continues in the same clone. What SET changes gets a name and a clone of its own, such as
cifar100_lt-imbalance_factor=50. METHODS runs some rows, in the same clone.

The rows come back to benchmarks/results/<name>/ and stay there beside those of earlier runs (longtail.report.results).
Other seeds of one recipe are other clones, but one table.
"""

import os
import shutil
import sys
import tempfile
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from longtail.git import GitError
from longtail.git import git as run_git
from pipelines.failures import PipelineError, UserError, failure_of
from pipelines.processes import run
from pipelines.repro import CHECK_PARAMS, DVC, reproduce, show_leaderboard, stop_on_sigterm
from pipelines.variants import Variant, methods_of, read_variant

CODE = ("src", "dvc.yaml")  # what a clone trains with, besides the params file
RAW = Path("data") / "raw"
ASSIGNMENT = Path("data") / "assignment.csv"


def git(root: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        PipelineError: git failed; its own words.
    """
    try:
        return run_git(root, *arguments)
    except GitError as error:
        raise PipelineError(str(error)) from None


def check_code(root: Path) -> None:
    """Refuse what cannot give a result that a commit stands for.

    Raises:
        UserError: the code differs from HEAD.
    """
    if changed := git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE):
        files = ", ".join(line.split()[-1] for line in changed.splitlines())
        raise UserError(f"PARAMS runs the committed code, but {files} differ from HEAD. Commit or undo them first.")


def check_changes(root: Path, variant: Variant) -> None:
    """Check a changed params file before anything is made for it; an unchanged one is checked in its clone.

    Raises:
        UserError: it does not hold; the sentences about it.
    """
    if not variant.changes:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / variant.file.name
        file.write_text(variant.text)
        checked = run([*CHECK_PARAMS, str(file)], root, len, extra={})
    if checked.code:
        raise UserError(checked.output.replace(str(file), f"{variant.file.name} with SET").strip())


def update_clone(root: Path, clone: Path, variant: Variant) -> None:
    """Make or refresh a clone: the code of HEAD, this params file, its own dvc.lock if it has one.

    Raises:
        UserError: the clone belongs to another params file of the same name.
    """
    if not (clone / ".git").is_dir():
        git(root, "clone", "--quiet", str(root), str(clone))
        git(clone, "config", "longtail.params", variant.owner)
    if (owner := git(clone, "config", "longtail.params")) != variant.owner:
        raise UserError(
            f"PARAMS is '{variant.owner}', but {clone.name} is the clone of '{owner}'. Rename one of the two files."
        )
    lock = clone / "dvc.lock"
    own_lock = lock.read_bytes() if lock.exists() else None
    git(clone, "update-index", "--no-skip-worktree", "params.yaml")
    git(clone, "fetch", "--quiet", "origin", "HEAD")
    git(clone, "checkout", "--quiet", "--force", "--detach", git(root, "rev-parse", "HEAD"))
    if own_lock is not None:
        lock.write_bytes(own_lock)
    (clone / "params.yaml").write_text(variant.text)
    if not variant.changes and _is_committed(
        root, variant.file
    ):  # then the commit says everything, and the clone is not dirty
        git(clone, "update-index", "--skip-worktree", "params.yaml")


def _is_committed(root: Path, file: Path) -> bool:
    return (
        file.is_relative_to(root)
        and bool(git(root, "ls-files", str(file)))
        and not git(root, "status", "-s", str(file))
    )


def share_cache(root: Path, clone: Path) -> None:
    """Let a clone use this repository's DVC configuration and DVC cache."""
    local = root / ".dvc" / "config.local"
    if local.exists():
        shutil.copyfile(local, clone / ".dvc" / "config.local")
    _dvc(clone, "cache", "dir", "--local", _dvc(root, "cache", "dir"))


def share(root: Path, clone: Path) -> None:
    """Let a clone use this repository's DVC configuration, DVC cache, raw data and the sides of its images."""
    share_cache(root, clone)
    if data := git(clone, "ls-files", "*.dvc").splitlines():
        _dvc(clone, "checkout", *data)
    raw = root / RAW
    for source in raw.iterdir() if raw.is_dir() else ():
        target = clone / RAW / source.name
        if target.is_symlink() or not (target.exists() or target.with_name(f"{target.name}.dvc").exists()):
            link(source, target)
    _copy(root / ASSIGNMENT, clone / ASSIGNMENT)


def link(source: Path, target: Path) -> None:
    """Link raw data into a clone, with a list of a folder's files beside it.

    DVC takes what lies behind a linked folder for empty: by the list (paths, sizes, times of change) it sees that files
    were added, changed or removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # perhaps a link to what has gone
    target.symlink_to(source, target_is_directory=source.is_dir())
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        lines = [f"{path.relative_to(source)} {(is_now := path.stat()).st_size} {is_now.st_mtime_ns}" for path in files]
        target.with_name(f"{target.name}.files").write_text("".join(f"{line}\n" for line in lines))


def _dvc(root: Path, *arguments: str) -> str:
    finished = run([*DVC, *arguments], root, len, extra={})
    if failure := failure_of(finished, f"dvc {arguments[0]}"):
        raise failure
    return finished.output.strip()


def _copy(source: Path, target: Path) -> None:
    """Copy a file if there is one; a clone that reads the target meanwhile finds the old one or the new one whole."""
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        shutil.copyfile(source, copy)
        copy.replace(target)


def bring_back(clone: Path, results: Path, variant: Variant, methods: Sequence[str]) -> None:
    """Add the rows that ran in a clone to a folder of results, with the params file; after a run of all, its plots.

    Raises:
        PipelineError: the rows could not be added.
    """
    added = run([sys.executable, "-m", "longtail.report.results", str(results), *methods], clone, len, extra={})
    if failure := failure_of(added, "longtail.report.results"):
        raise failure
    (results / "params.yaml").write_text(variant.table.text)
    if not methods:
        shutil.rmtree(results / "plots", ignore_errors=True)
        ignore = shutil.ignore_patterns(".gitignore")
        shutil.copytree(clone / "reports" / "plots", results / "plots", copy_function=shutil.copyfile, ignore=ignore)


@contextmanager
def clone_of(root: Path, variant: Variant) -> Iterator[Path]:
    """Hold the clone of a variant, with the code of HEAD and what it shares; another run of the same one waits.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    clone = root / ".longtail" / "runs" / variant.name
    clone.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(clone.with_name(f"{clone.name}.lock")):
        update_clone(root, clone, variant)
        share(root, clone)
        try:
            yield clone
        finally:
            _copy(clone / ASSIGNMENT, root / ASSIGNMENT)  # a side once given stays, whatever came of the run


def run_file(root: Path, params: Path, words: Sequence[str] = (), names: str | None = None) -> Path:
    """Run a params file in its clone and return the folder of its results.

    Args:
        words: KEY=VALUE, changes to the file.
        names: rows of `methods`, with commas between; None for all and the report.

    Raises:
        PipelineError: what failed, by whose fault.
    """
    variant = read_variant(params, words)
    methods = () if names is None else methods_of(variant, names)
    check_code(root)
    check_changes(root, variant)
    results = root / "benchmarks" / "results" / variant.table.name
    with clone_of(root, variant) as clone:
        print(f"{variant.name} runs in {clone.relative_to(root)}.", flush=True)
        home = {"LONGTAIL_HOME": str(root)}
        reproduce(clone, home, [f"evaluate@{method}" for method in methods])
        bring_back(clone, results, variant, methods)
    return results


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="pipelines.clone", description="Run a params file in a clone of its own.")
    parser.add_argument("params", help="the params file")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to it")
    parser.add_argument("--methods", help="rows to run, with commas between; all by default")
    return parser.parse_intermixed_args()


def main() -> int:
    """Run the params file that the command line names, with the changes behind it, and return the exit code."""
    arguments = _arguments()
    stop_on_sigterm()
    root = Path.cwd()
    try:
        results = run_file(root, Path(arguments.params).resolve(), arguments.changes, arguments.methods)
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("Stopped. Run it again to continue from the last epoch.", file=sys.stderr)
        return 130
    show_leaderboard(results)
    print(f"\nResults: {os.path.relpath(results, root)}. All runs: make ui.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
