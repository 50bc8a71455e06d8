"""The models that were registered: which one serves, which one did before, and how to change that safely.

Aliases in MLflow: `challenger` is the version that was registered last, `champion` the one that serves, `previous` the
champion before it. `champion` moves in one call; what a killed command has left, the next one finds, says and mends
(`longtail.tracking.succession`). A version becomes champion only if its model can be loaded.

Rolling back makes the champion's predecessor champion again, a second time the one before that, until there is none.
The version that was left is not served again unless it is promoted, which undoes the rollback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from longtail.spec import InputError
from longtail.tracking.server import Server, connect, is_on, locked, reason, tracking_uri, without_password
from longtail.tracking.succession import NOBODY, Change, Succession, line_before
from longtail.tracking.versions import CHALLENGER, CHAMPION, Version, Versions

__all__ = ["Registry", "Version", "open_registry"]


class Registry(Versions):
    """The versions of one registered model, and what changes them.

    Args:
        name: of the registered model; it need not exist yet.
        root: the repository, whose lock keeps its commands on one machine apart.
    """

    def __init__(self, server: Server, name: str, root: Path) -> None:
        super().__init__(server, name)
        self.root = root
        self._succession = Succession(self)

    def register(self, run: str, tags: Mapping[str, str]) -> Version:
        """Make a version of the model that an `evaluate` run logged, and the `challenger`; a run has one version.

        Args:
            tags: of the version, written in the call that makes it; a version that exists gets them one by one.

        Raises:
            InputError: the run logged no model.
        """
        client = self.server.client
        with self._alone():
            mine = next((version for version in self.versions() if version.run == run), None)
            number = mine.number if mine else self._create(run, tags)
            for key, value in tags.items() if mine else ():
                client.set_model_version_tag(self.name, number, key, value)
            client.set_registered_model_alias(self.name, CHALLENGER, number)
            return self.version(number)

    def promote(self, number: str) -> Version:
        """Let a version serve; if it does already, nothing happens.

        Raises:
            InputError: there is no such version, or it cannot be loaded.
        """
        with self._alone():
            version, snapshot = self.version(number), self.read()
            champion = snapshot.holder(CHAMPION)
            before = [champion.number, *line_before(champion, snapshot)] if champion else []
            if number not in before[:1]:
                self.predictor(version)
                self._succession.move(Change("promote", before[0] if before else NOBODY, number), before)
            return self.version(number)

    def rollback(self) -> Version:
        """Let the champion's predecessor serve again.

        Raises:
            InputError: there is no champion, it has no predecessor, or that one cannot be loaded.
        """
        with self._alone():
            snapshot = self.read()
            champion = snapshot.holder(CHAMPION)
            line = line_before(champion, snapshot) if champion else []
            if champion is None or not line:
                why = f"version {champion.number} serves and none did before" if champion else "no version serves"
                remedy = "Choose one: python -m longtail.tracking.registry promote VERSION."
                raise InputError(f"Model {self.name} cannot be rolled back: {why}. {remedy}")
            self.predictor(self.version(line[0]))
            self._succession.move(Change("rollback", champion.number, line[0]), line[1:])
            return self.version(line[0])

    def repair(self) -> str | None:
        """Finish or drop a change that was cut off, and say what was found; None if all is well."""
        with self._locked():
            return self._succession.mend()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other commands away, and begin with what an earlier one has left."""
        with self._locked():
            if found := self._succession.mend():
                print(found, file=sys.stderr, flush=True)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = locked(self.root)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"Another command has held {lock.lock_file} for a minute; wait for it or end it."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _create(self, run: str, tags: Mapping[str, str]) -> str:
        outputs = self.server.client.get_run(run).outputs
        if outputs is None or not outputs.model_outputs:
            raise InputError(f"MLflow run {run} logged no model. Send it with `python -m longtail.tracking sync`.")
        self._make_model()
        model = self.server.client.get_logged_model(outputs.model_outputs[0].model_id)
        # Not models:/<id>, which MLflow looks up in the process's default database instead of the client's.
        made = self.server.client.create_model_version(
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


def open_registry(root: Path, name: str) -> Registry:
    """Reach MLflow's registry.

    Raises:
        InputError: tracking is off, or MLflow cannot be reached.
    """
    if not is_on():
        raise InputError("LONGTAIL_TRACKING is off or mlflow is not installed, but the model registry is MLflow's.")
    return reach_registry(root, name)


def reach_registry(root: Path, name: str) -> Registry:
    """Reach MLflow's registry, whether or not runs are recorded.

    Raises:
        InputError: MLflow cannot be reached.
    """
    try:
        server = connect(root)
    except Exception as error:
        raise InputError(trouble(root, error)) from None
    return Registry(server, name, root)


def trouble(root: Path, error: Exception) -> str:
    """Say in a sentence what is the matter with MLflow."""
    return f"MLflow at {without_password(tracking_uri(root))} {reason(error)}. Start it, or set MLFLOW_TRACKING_URI."
