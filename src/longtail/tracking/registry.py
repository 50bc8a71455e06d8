"""The command of the registered models: show the versions, promote one, roll back.

    python -m longtail.tracking.registry show | promote VERSION | rollback  [--name NAME]

What the aliases mean and how a change stays safe: `longtail.tracking.registered_model`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longtail.params import load_params
from longtail.spec import InputError
from longtail.tracking.candidates import DATA, DECISION, trouble_with_mlflow
from longtail.tracking.registered_model import Registry, open_registry
from longtail.tracking.succession import LEFT, Change
from longtail.tracking.versions import Version
from longtail.workspace import home

COMMIT = "longtail.commit"
DIGITS = 12  # of a digest, enough to distinguish it
WIDE = 200  # characters of a line that goes to a file, where nothing need be wrapped
NAME = "longtail"  # where no params.yaml says otherwise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; exit code 2 and a sentence for what the user can mend."""
    given, root = _parser().parse_args(arguments), home()
    try:
        _run(open_registry(root, given.name or _name(root)), given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(registry: Registry, given: argparse.Namespace) -> None:
    try:
        if not registry.versions():
            raise InputError(_unknown(registry))
        {"show": _show, "promote": _promote, "rollback": _rollback}[given.command](registry, given)
    except Exception as error:
        said = trouble_with_mlflow(registry.root, error)
        if said is None:
            raise
        raise InputError(said) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m longtail.tracking.registry", description="The registered models, and which one serves."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--name", help=f"of the registered model; by default retrain.name, else {NAME}")
    commands.add_parser("show", parents=[shared], help="list the versions, newest first")
    promote = commands.add_parser("promote", parents=[shared], help="let a version serve")
    promote.add_argument("version", metavar="VERSION", help="its number")
    commands.add_parser("rollback", parents=[shared], help="let the champion's predecessor serve again")
    return parser


def _name(root: Path) -> str:
    file = root / "params.yaml"
    retrain = load_params(file).retrain if file.exists() else None
    return retrain.name if retrain else NAME


def _show(registry: Registry, _: argparse.Namespace) -> None:
    snapshot = registry.read()
    table = Table("version", "aliases", "created (UTC)", "decision", "data", "commit", title=registry.name)
    for version in snapshot.versions:
        table.add_row(*_row(version))
    console = Console()
    console.width = console.width if console.is_terminal else WIDE
    console.print(table)
    if change := Change.noted(snapshot):
        print(f"Under way or cut off: {change}. The next promote or rollback says what became of it.", file=sys.stderr)


def _row(version: Version) -> tuple[str, ...]:
    tags = version.tags
    left = f", rolled back to {tags[LEFT]}" if LEFT in tags else ""
    created = f"{version.created:%Y-%m-%d %H:%M}"
    decision, data, commit = (tags.get(key, "-") for key in (DECISION, DATA, COMMIT))
    return version.number, ", ".join(version.aliases), created, decision + left, data[:DIGITS], commit[:DIGITS]


def _promote(registry: Registry, given: argparse.Namespace) -> None:
    before, now = registry.champion(), registry.promote(given.version)
    if before and before.number == now.number:
        print(f"Version {now.number} of {registry.name} serves already; nothing was changed.")
        return
    previous = registry.previous()
    print(
        f"Version {now.number} of {registry.name} serves"
        + (f"; before it, {previous.number} did." if previous else ".")
    )


def _rollback(registry: Registry, _: argparse.Namespace) -> None:
    left, now = registry.champion(), registry.rollback()
    undo = f" To undo this, promote {left.number}." if left else ""
    print(f"Version {now.number} of {registry.name} serves again.{undo}")


def _unknown(registry: Registry) -> str:
    others = [model.name for model in registry.server.client.search_registered_models() if model.name != registry.name]
    remedy = f"Give --name, one of {', '.join(others)}" if others else "Train one: python -m pipelines.retrain"
    return f"MLflow has no version of a model {registry.name}. {remedy}."


if __name__ == "__main__":
    sys.exit(main())
