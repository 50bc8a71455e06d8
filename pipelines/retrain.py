"""Retrain on new images, and serve the new model only if it is better where it matters.

    python -m pipelines.retrain [--data FOLDER] [--force] [--dry-run] [--extend-held-out] [--stage-timeout MINUTES]

Look for new or changed images (by content); stop if there are none; refuse images that cannot be right, before any
training; train `retrain.method` in a clone of its own; register the model in MLflow as `challenger`; compare it with
the `champion` on the same held-out images; promote it, or not, and say why: in Prefect (an artifact), in MLflow (a run,
and tags of the version), and to a webhook. One retraining at a time: a second one waits for the first.

Exit codes: 0 for nothing changed, promoted or refused by the gate; 2 for what the user can mend; 1 otherwise.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from longtail.data.assignment import read_assignment
from longtail.data.own_images import path_of
from longtail.images.split_files import load_split
from longtail.retraining.comparison import compare
from longtail.retraining.gate import Decision
from longtail.retraining.inventory import Changes, Inventory, changes, hold, problems, take_inventory
from longtail.serving.exported_program import export
from longtail.spec import InputError
from longtail.tracking import candidates
from longtail.tracking.candidates import PASSED, PROMOTED, REFUSED, Verdict
from longtail.tracking.registered_model import Registry, open_registry
from longtail.tracking.versions import Version
from longtail.workspace import digest_of, only_writer
from pipelines.clone import ASSIGNMENT, git
from pipelines.failures import PipelineError, UserError
from pipelines.nightly import INVENTORY, Nightly, plan_night
from pipelines.notify import tell, tell_failure
from pipelines.repro import stop_on_sigterm
from pipelines.train import RETRY_DELAYS, logged, run_graph

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a task that fails in a sentence where the user can mend it.

    An exception would be logged with a page of Prefect's own calls, so the task ends in a state, and the exception goes
    on from there.
    """

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def attempt(*arguments: P.args, **named: P.kwargs) -> R | State[R]:
            try:
                return work(*arguments, **named)
            except (PipelineError, InputError) as failure:
                return Failed(message=str(failure), data=failure)

        as_task: Any = task(task_run_name=name, cache_policy=NO_CACHE)(attempt)

        @wraps(work)
        def run(*arguments: P.args, **named: P.kwargs) -> R:
            outcome = as_task(*arguments, **named)
            if isinstance(outcome, State):
                raise outcome.result(raise_on_failure=False)
            made: R = outcome
            return made

        return run

    return decorate


EXAMPLES = 16  # held-out images on which the exported program is checked


@dataclass(frozen=True)
class Found:
    """What a night begins with.

    Args:
        now, before: the images of today, and those that the champion was made of (None: there is no champion).
        champion, newest: versions of the registered model: the one that serves, the one registered last.
        news: why something is to be done; None if nothing is.
    """

    now: Inventory
    before: Inventory | None
    champion: Version | None
    newest: Version | None
    news: str | None

    @property
    def changes(self) -> Changes:
        """How the images differ from the champion's."""
        return changes(self.now, self.before)


@step("look for changes")
def look(night: Nightly, registry: Registry, force: bool) -> Found:
    """Compare today's images and recipe with those of the newest version."""
    night.prepare()
    now = take_inventory(night.source)
    champion, newest = registry.champion(), registry.challenger()  # registered last, perhaps an old one again
    before = night.inventory_of(champion.number) if champion else None
    news = _news(now, night, newest) or ("asked for (force)" if force else None)
    return Found(now, before, champion, newest, news)


def _news(now: Inventory, night: Nightly, newest: Version | None) -> str | None:
    if newest is None:
        return "there is no model yet"
    if newest.tags.get(candidates.DATA) != now.digest:
        return "the images have changed"
    if newest.tags.get(candidates.RECIPE) != night.recipe:
        return "params.yaml or the code has changed"
    if not candidates.is_settled(newest):
        return f"version {newest.number} was left undecided"
    return None


@step("validate the data")
def validate(night: Nightly, found: Found) -> None:
    """Refuse images that cannot be right.

    Raises:
        UserError: all that is wrong with them; an artifact has it too.
    """
    now = found.now.with_sides(read_assignment(night.clone / ASSIGNMENT))
    wrong = problems(now, found.before, night.retraining.classes_may_vanish)
    if wrong:
        report = "\n".join(["# The images were refused", "", *(f"- {sentence}" for sentence in wrong), ""])
        _publish(f"{report}\n{found.changes.markdown()}", "The images were refused before any training")
        raise UserError(" ".join(wrong))


@step("load the champion")
def load_champion(registry: Registry, champion: Version) -> None:
    """Find out before the training, not after it, that the champion cannot be compared with.

    Raises:
        InputError: its files are gone or damaged.
    """
    registry.predictor(champion)


@step("register the challenger")
def register(night: Nightly, registry: Registry, found: Found) -> Version:
    """Register what was trained, with all that it was made of."""
    if take_inventory(night.source, decode=False).digest != found.now.digest:
        raise UserError("The images changed while the model was trained, so nobody knows which it saw. Run it again.")
    found.now.with_sides(read_assignment(night.clone / ASSIGNMENT)).save(night.clone / INVENTORY)
    tags = {
        candidates.DATA: found.now.digest,
        candidates.RECIPE: night.recipe,
        "longtail.method": night.retraining.method,
        "longtail.seed": str(night.retraining.seed),
        "longtail.commit": git(night.root, "rev-parse", "HEAD"),
        "longtail.dvc": digest_of((night.clone / "dvc.lock").read_text()),
        "longtail.images": str(sum(found.now.counts.values())),
    }
    return candidates.register_trained(registry, night.params, night.clone, tags)


@step("compare with the champion")
def decide(night: Nightly, registry: Registry, found: Found, version: Version) -> Verdict:
    """Compare champion and challenger on the same held-out images, and record the result."""
    split, images = load_split(night.clone / "data" / "split"), night.source.find_root()
    challenger, decision = registry.predictor(version), None
    if found.champion:
        champion, seed = registry.predictor(found.champion), night.retraining.seed
        gate, evaluation = night.retraining.gate, night.params.evaluation
        decision = compare(gate, evaluation, champion, challenger, split, images, seed)
    examples = [(images / path_of(image)).read_bytes() for image in split.test.ids[:EXAMPLES]]
    exported = export(challenger, night.clone / ".longtail" / "exported.pt2", examples)
    word = PASSED if decision is None or decision.promote else REFUSED
    why = decision.reason if decision else "Passed: it is the first model."
    verdict = Verdict(
        word=word,
        reason=why,
        report=_report(night, found, version, word, why, decision),
        numbers=decision.numbers() if decision else {},
        document=decision.document() if decision else {"promote": True, "reason": why},
        files=(*(night.clone / path for path in ("params.yaml", "dvc.lock", ASSIGNMENT, INVENTORY)), exported),
    )
    candidates.log_verdict(registry.server, version, night.params, verdict)
    candidates.say_verdict(registry, version, word, why)
    return verdict


def _report(night: Nightly, found: Found, version: Version, word: str, why: str, decision: Decision | None) -> str:
    against = f"champion version {found.champion.number}" if found.champion else "no champion"
    head = f"# {night.retraining.name} version {version.number}: {word}\n\n{why}\n\nRetrained because {found.news}; "
    return f"{head}compared with {against}.\n\n" + "\n".join(
        [decision.markdown() if decision else "", "## Images", "", found.changes.markdown()]
    )


@step("promote")
def promote(night: Nightly, registry: Registry, version: Version) -> None:
    """Push what the model was made of, then serve it."""
    with logged() as log:
        night.push(log)
    night.keep(version.number)
    registry.promote(version.number)
    candidates.say_word(registry, version, PROMOTED)


def _publish(markdown: str, description: str) -> None:
    create_markdown_artifact(key="retraining", markdown=markdown, description=description)


@contextmanager
def _home(root: Path) -> Iterator[None]:
    """Let stages in the clone use this repository's MLflow database and checkpoints."""
    before = os.environ.get("LONGTAIL_HOME")
    os.environ["LONGTAIL_HOME"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LONGTAIL_HOME"]
        else:
            os.environ["LONGTAIL_HOME"] = before


def _run_name() -> str:
    root = Path(flow_run.parameters.get("root") or ".").resolve()
    return f"retrain in {root.name}"


@flow(
    name="retrain",
    flow_run_name=_run_name,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[tell_failure],
)
def retrain(
    root: str = ".",
    data: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    extend_held_out: bool = False,
    stage_timeout_minutes: float | None = None,
) -> State[None]:
    """Retrain if there is something new, and promote the model if it passes the gate.

    Args:
        root: the repository; by default the working folder.
        data: the folder of the images instead of data.path in params.yaml.
        force: go on although nothing has changed.
        dry_run: say what has changed and whether it is valid; train nothing.
        extend_held_out: let grown classes have more held-out images; otherwise these stay those of the first day.
        stage_timeout_minutes: stop a stage that takes longer, with all its processes, and fail.
    """
    home, timeout = Path(root).resolve(), stage_timeout_minutes and 60 * stage_timeout_minutes
    try:
        night = plan_night(home, data)
        name = f"retrain {night.retraining.name}"
        with _home(home), only_writer(name, home / ".longtail" / "locks"):
            return _spend(night, force, dry_run, extend_held_out, timeout or None)
    except PipelineError as failure:
        return Failed(message=str(failure), data=failure)
    except Exception as error:
        said = str(error) if isinstance(error, InputError) else candidates.trouble_with_mlflow(home, error)
        if said is None:
            raise
        return Failed(message=said, data=UserError(said))


def _spend(night: Nightly, force: bool, dry_run: bool, extend: bool, timeout: float | None) -> State[None]:
    """Spend the night and say how it ended."""
    log = get_run_logger()
    registry = open_registry(night.root, night.retraining.name)
    if mended := registry.repair():
        tell(mended, log)
    found = look(night, registry, force)
    if found.news is None:
        assert found.newest is not None
        message = f"Nothing changed since version {found.newest.number} ({found.newest.tags[candidates.DECISION]})."
        log.info(message)
        return Completed(name="Nothing changed", message=message)
    validate(night, found)
    if found.champion:
        load_champion(registry, found.champion)
    if dry_run:
        _publish(f"# Dry run: {found.news}\n\n{found.changes.markdown()}", "Nothing was trained")
        return Completed(name="Dry run", message=f"It would retrain, since {found.news}. The images are valid.")
    log.info(hold(night.clone / ASSIGNMENT, found.now, night.source, extend))
    _train(night, timeout)
    version = register(night, registry, found)
    if found.champion and found.champion.number == version.number:
        return Completed(name="Nothing changed", message=f"Training gave version {version.number} again, the champion.")
    verdict = decide(night, registry, found, version)
    if verdict.word == PASSED:
        promote(night, registry, version)
    word = PROMOTED if verdict.word == PASSED else REFUSED
    message = f"{night.retraining.name} version {version.number}. {verdict.reason}"
    _publish(verdict.report, message)
    tell(message, log)
    return Completed(name=word.capitalize(), message=message)


def _train(night: Nightly, timeout: float | None) -> None:
    """Run the stages.

    Raises:
        InputError: the folder of the images has gone since it was looked at.
        PipelineError: what failed, by whose fault.
    """
    try:
        run_graph(night.clone, timeout, RETRY_DELAYS)
    except PipelineError:
        night.source.find_root()  # DVC would name a folder of the clone
        raise


def main() -> int:
    """Run the flow in the current directory and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.retrain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="images instead of those of data.path")
    parser.add_argument("--force", action="store_true", help="go on although nothing has changed")
    parser.add_argument("--dry-run", action="store_true", help="say what has changed; train nothing")
    parser.add_argument("--extend-held-out", action="store_true", help="give grown classes more held-out images")
    parser.add_argument("--stage-timeout", type=float, metavar="MINUTES", help="stop a stage that takes longer")
    said = parser.parse_args()
    stop_on_sigterm()
    state = retrain(
        ".", said.data, said.force, said.dry_run, said.extend_held_out, said.stage_timeout, return_state=True
    )
    if state.is_completed():
        print(state.message)
        return 0
    failure = state.result(raise_on_failure=False)
    print(state.message, file=sys.stderr)
    return failure.exit_code if isinstance(failure, PipelineError) else 1


if __name__ == "__main__":
    sys.exit(main())
