"""The model that serves, and how to change it safely.

    python -m longtail.tracking.registry show | promote VERSION | rollback  [--name NAME]

Aliases in MLflow: `challenger` is the version registered last, `champion` the one that serves, `previous` the champion
before it. A version that is to become champion says so in a tag, with the version that it replaces; then `champion`
moves in one call; then tags and `previous` follow, and the first tag goes. Whatever dies in between, the next command
reads that tag, says what it found, and finishes or forgets the change: there is one champion at any time.

Rolling back lets the champion's predecessor serve again; promoting the version that was left undoes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from longtail.params import load_params
from longtail.spec import InputError
from longtail.tracking.server import Server, connect, is_on, reason, tracking_uri, without_password
from longtail.tracking.versions import CHALLENGER, CHAMPION, PREVIOUS, Version, Versions
from longtail.workspace import home

PREDECESSOR = "longtail.predecessor"  # of a champion: the one before it; "" if there was none
UNDER_WAY = "longtail.becoming_champion"  # "promote 2": it becomes champion in place of version 2
LEFT = "longtail.rolled_back_to"
PATIENCE = 120.0  # seconds for another command on this machine to finish
SHOWN = ("longtail.decision", "longtail.data", "longtail.commit", LEFT)
DEFAULT_NAME = "longtail"


class Registry(Versions):
    """The versions of one registered model, and the commands that change which one serves.

    Args:
        root: the repository, whose lock keeps two commands on a machine apart.
    """

    def __init__(self, server: Server, name: str, root: Path) -> None:
        super().__init__(server, name)
        self.root = root
        folder = root / ".longtail"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "registry.lock", timeout=PATIENCE)

    def register(self, run: str, tags: Mapping[str, str]) -> Version:
        """Make a version of the model that an `evaluate` run logged, and the `challenger`; a run has one version.

        Args:
            tags: of the version, written in the call that makes it.

        Raises:
            InputError: the run logged no model.
        """
        with self._lock:
            self._make_model()
            mine = [version for version in self.versions() if version.run == run]
            number = mine[0].number if mine else self._create(run, tags)
            for name, value in tags.items() if mine else ():
                self._tag(number, name, value)
            self._point(CHALLENGER, number)
            return self.version(number)

    def promote(self, number: str) -> Version:
        """Let a version serve; if it does already, nothing happens.

        Raises:
            InputError: there is no such version.
        """
        with self._lock:
            self._mend()
            self.version(number)
            champion = self.champion()
            if champion is None or champion.number != number:
                self._crown(number, "promote", champion.number if champion else "")
            return self.version(number)

    def rollback(self) -> Version:
        """Let the champion's predecessor serve again.

        Raises:
            InputError: there is no champion, or it has no predecessor.
        """
        with self._lock:
            self._mend()
            champion = self.champion()
            before = self._predecessor(champion)
            if champion is None or before is None:
                who = f"version {champion.number} serves" if champion else "no version serves"
                raise InputError(f"Model {self.name} cannot be rolled back: {who}, and none did before. Promote one.")
            self._crown(before, "rollback", champion.number)
            return self.version(before)

    def repair(self) -> str | None:
        """Finish or forget a change that was cut off, and say so in a sentence or two; None if all is well."""
        with self._lock:
            return self._repair()

    def _mend(self) -> None:
        if found := self._repair():
            print(found, file=sys.stderr, flush=True)

    def _repair(self) -> str | None:
        found = [self._repair_champion(), *(self._repair_change(version) for version in self.versions())]
        return " ".join(filter(None, [*found, self._repair_previous()])) or None

    def _crown(self, number: str, command: str, other: str) -> None:
        """Make a version champion in place of another one ("": of none); every call leaves one champion."""
        self._tag(number, UNDER_WAY, f"{command} {other}")
        self._point(CHAMPION, number)
        self._finish(number, command, other)

    def _finish(self, number: str, command: str, other: str) -> None:
        if command == "promote":
            self._tag(number, PREDECESSOR, other)
        else:
            self._tag(other, LEFT, number)
        self._follow()
        self.server.client.delete_model_version_tag(self.name, number, UNDER_WAY)

    def _follow(self) -> None:
        """Let `previous` point to the champion's predecessor."""
        if before := self._predecessor(self.champion()):
            self._point(PREVIOUS, before)
        elif PREVIOUS in self.aliases():
            self.server.client.delete_registered_model_alias(self.name, PREVIOUS)

    def _predecessor(self, champion: Version | None) -> str | None:
        """Return the champion before this one, if it still exists; where nobody promoted it here, the alias says."""
        if champion is None:
            return None
        number = champion.tags.get(PREDECESSOR, self.aliases().get(PREVIOUS))
        return number if number in {version.number for version in self.versions()} else None

    def _repair_champion(self) -> str | None:
        previous = self.previous()
        if self.champion() is not None or previous is None:
            return None
        self._point(CHAMPION, previous.number)
        return f"The champion of {self.name} was deleted; its predecessor, version {previous.number}, serves again."

    def _repair_change(self, version: Version) -> str | None:
        if UNDER_WAY not in version.tags:
            return None
        command, _, other = version.tags[UNDER_WAY].partition(" ")
        if CHAMPION in version.aliases:
            self._finish(version.number, command, other)
            return f"A {command} to version {version.number} was cut off after it had become champion; it is finished."
        self.server.client.delete_model_version_tag(self.name, version.number, UNDER_WAY)
        serves = f"version {other} still serves" if other else "no version serves"
        return f"A {command} to version {version.number} was cut off before it became champion; {serves}."

    def _repair_previous(self) -> str | None:
        champion, before = self.champion(), self.aliases().get(PREVIOUS)
        if champion is None or before == self._predecessor(champion):
            return None
        self._follow()
        now = self.aliases().get(PREVIOUS)
        return f"The alias {PREVIOUS} of {self.name} was {before or 'missing'}; it is {now or 'gone'}."

    def _create(self, run: str, tags: Mapping[str, str]) -> str:
        client = self.server.client
        outputs = client.get_run(run).outputs
        if outputs is None or not outputs.model_outputs:
            raise InputError(f"MLflow run {run} logged no model. Send it with `python -m longtail.tracking sync`.")
        model = client.get_logged_model(outputs.model_outputs[0].model_id)
        made = client.create_model_version(
            self.name, model.artifact_location, run_id=run, tags=dict(tags), model_id=model.model_id
        )
        return str(made.version)

    def _make_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.server.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _tag(self, number: str, name: str, value: str) -> None:
        self.server.client.set_model_version_tag(self.name, number, name, value)

    def _point(self, alias: str, number: str) -> None:
        self.server.client.set_registered_model_alias(self.name, alias, number)


def lines(registry: Registry) -> list[str]:
    """Describe every version in a line, newest first."""
    return [_line(version) for version in registry.versions()]


def _line(version: Version) -> str:
    created = datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    said = [f"{name.removeprefix('longtail.')} {version.tags[name][:12]}" for name in SHOWN if name in version.tags]
    return "  ".join([f"version {version.number:>3}", created, ", ".join(version.aliases) or "-", *said])


def _default_name() -> str:
    try:
        retraining = load_params().retrain
    except InputError:
        return DEFAULT_NAME
    return retraining.name if retraining else DEFAULT_NAME


def _run(registry: Registry, command: str, number: str | None) -> list[str]:
    if command == "show":
        found = registry.repair()
        return [*([found] if found else []), *(lines(registry) or [f"Model {registry.name} has no version yet."])]
    if command == "rollback":
        return [f"Version {registry.rollback().number} of {registry.name} serves again."]
    if number is None:
        raise InputError("promote needs the number of a version; `show` lists them.")
    return [f"Version {registry.promote(number).number} of {registry.name} serves."]


def main() -> int:
    """Run a command; exit code 2 and a sentence for what the user can mend, 1 for anything else."""
    parser = argparse.ArgumentParser(
        prog="python -m longtail.tracking.registry", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("command", choices=["show", "promote", "rollback"])
    parser.add_argument("version", nargs="?")
    parser.add_argument("--name", help="of the registered model; by default retrain.name in params.yaml")
    said = parser.parse_args()
    root = home()
    uri = without_password(tracking_uri(root))
    try:
        if not is_on():
            raise InputError("LONGTAIL_TRACKING is off or mlflow is not installed, so there is no registry. Unset it.")
        registry = Registry(connect(root), said.name or _default_name(), root)
        print("\n".join(_run(registry, said.command, said.version)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        print(f"MLflow at {uri} {reason(error)}. Start it, or set MLFLOW_TRACKING_URI, and try again.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
