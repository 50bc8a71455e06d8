"""A sweep over methods, seeds and numbers as a Prefect flow: one task per trial, so many at once and no more.

    python -m pipelines.sweep params.yaml --grid methods.glag.balancer.beta_0=0.2,0.4,0.6 --grid seeds=[0],[1] \
        --methods glag --jobs 2

Every trial trains in a clone of its own under .longtail/runs and shares the DVC cache: what was ever trained is not
trained twice, and the same command again continues. Trials are ranked by validation images alone. See docs/sweeps.md.
Exit codes: 0, 2 for what the user can mend before anything runs, 1 if a trial failed, 130 if it was stopped.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from rich.console import Console

from pipelines import sweep_table, sweep_trial
from pipelines.clone import check_code
from pipelines.failures import PipelineError, UserError
from pipelines.repro import stop_on_sigterm
from pipelines.sweep_plan import Sweep, Trial, plan_sweep
from pipelines.sweep_table import Provenance
from pipelines.sweep_trial import Outcome
from pipelines.sweep_waves import waves

SCORES = ("overall", "balanced", "many", "medium", "few")
RUNNERS = ("dask", "threads")


def runner_for(kind: str, jobs: int) -> TaskRunner[Any]:
    """Return what runs at most `jobs` trials at once.

    Args:
        kind: dask (a cluster inside this process) or threads; either way a trial's work is in processes of its own.

    Raises:
        UserError: Dask is not installed.
    """
    if kind == "threads":
        return ThreadPoolTaskRunner(max_workers=jobs)
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise UserError("--runner dask needs prefect-dask: run `make setup`, or write --runner threads.") from None
    logging.getLogger("distributed").setLevel(logging.WARNING)  # tells of every connection
    # A trial's memory is not this process's; its status pages are for this machine alone, on any free port.
    here, workers = "127.0.0.1:0", {"n_workers": jobs, "threads_per_worker": 1, "processes": False, "memory_limit": 0}
    return DaskTaskRunner(cluster_kwargs={**workers, "dashboard_address": here, "worker_dashboard_address": here})


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_one(name: str, root: Path, trial: Trial, folder: Path, jobs: int) -> State[None]:
    """Run one trial; the state's message says why it failed."""
    outcome = sweep_trial.run_trial(root, trial, folder, sweep_trial.threads_of(jobs))
    if outcome.state == "finished":
        return Completed()
    return Failed(message=outcome.reason or outcome.state)


@contextmanager
def _all_stopped() -> Iterator[None]:
    """End all trials when the flow is interrupted: the task runner would wait for them."""
    try:
        yield
    except BaseException:
        sweep_trial.stop()
        raise


@flow(name="sweep", flow_run_name="{sweep.name}", validate_parameters=False)
def run_sweep(root: Path, sweep: Sweep, folder: Path, about: Provenance) -> State[None]:
    """Run all trials of a sweep; those that fail do not keep the others from running.

    Args:
        folder: gets the log and the outcome of each trial.
    """
    log, jobs = get_run_logger(), about.jobs
    log.info(f"{len(sweep.trials)} trials, {jobs} at a time. Logs: {os.path.relpath(folder, root)}/*.log")
    with _all_stopped():
        for group in waves(sweep.trials):
            futures = [run_one.submit(trial.name, root, trial, folder, jobs) for trial in group]
            for future in futures:
                future.wait()
    outcomes = [sweep_trial.read_outcome(trial, folder) for trial in sweep.trials]
    text = sweep_table.markdown(sweep.name, outcomes, about)
    create_markdown_artifact(key="sweep", markdown=text, description=sweep.name)
    failed = sum(outcome.state != "finished" for outcome in outcomes)
    return Failed(message=f"{failed} of {len(outcomes)} trials failed") if failed else Completed()


def sweep_all(root: Path, sweep: Sweep, about: Provenance, kind: str) -> list[Outcome]:
    """Run a sweep, write benchmarks/results/<name>/sweep.json and sweep.md, and return what came of each trial.

    Args:
        kind: see `runner_for`.

    Raises:
        UserError: the code differs from HEAD, or Dask is missing.
    """
    check_code(root)
    runner = runner_for(kind, about.jobs)
    folder = root / ".longtail" / "sweeps" / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    for trial in sweep.trials:
        (folder / f"{trial.name}.json").unlink(missing_ok=True)  # of an earlier sweep; its training is kept
    run_sweep.with_options(task_runner=runner)(root, sweep, folder, about, return_state=True)
    outcomes = [sweep_trial.read_outcome(trial, folder) for trial in sweep.trials]
    sweep_table.write_results(root / "benchmarks" / "results" / sweep.name, outcomes, about)
    return outcomes


def show(sweep: Sweep, outcomes: Sequence[Outcome], about: Provenance) -> None:
    """Print the table, what failed, and how to train the best trial again."""
    Console().print(sweep_table.terminal_table(outcomes, about))
    print("Percent; mean ± standard deviation over a trial's seeds; ordered by validation images alone.")
    for outcome in outcomes:
        if outcome.reason:
            print(f"{outcome.name} failed: {outcome.reason}")
    print(sweep_table.advice(outcomes, about))
    print(f"Results: benchmarks/results/{sweep.name}. All runs: make ui.")


def _provenance(arguments: argparse.Namespace, root: Path) -> Provenance:
    from longtail.report import provenance
    from longtail.training.hardware import select_device

    hardware, params = provenance.hardware(select_device()), os.path.relpath(arguments.params.resolve(), root)
    return Provenance(params, arguments.score, arguments.test, arguments.jobs, provenance.commit(root), hardware)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.sweep", description="Sweep over methods and numbers.")
    parser.add_argument("params", type=Path, metavar="PARAMS_FILE")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE", help="may come several times")
    parser.add_argument("--methods", metavar="ROW,ROW", help="rows of methods, each in trials of its own; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once (default: 2)")
    parser.add_argument("--runner", choices=RUNNERS, default="dask", help="Prefect's task runner (default: dask)")
    parser.add_argument("--score", choices=SCORES, default="overall", help="metric of the validation images that ranks")
    parser.add_argument("--test", action="store_true", help="show test numbers too; they are not to choose by")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, root: Path) -> int:
    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}; at least one trial must run at a time. Write --jobs 1.")
    methods = tuple(arguments.methods.split(",")) if arguments.methods is not None else ()
    sweep = plan_sweep(arguments.params.resolve(), arguments.grid, methods)
    about = _provenance(arguments, root)
    outcomes = sweep_all(root, sweep, about, arguments.runner)
    show(sweep, outcomes, about)
    return int(any(outcome.state != "finished" for outcome in outcomes))


def main() -> int:
    """Run the sweep that the command line names and return the exit code."""
    stop_on_sigterm()
    try:
        return _run(_arguments(), Path.cwd())
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        sweep_trial.stop()
        print("Stopped. The same command again continues; what is trained is kept.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
