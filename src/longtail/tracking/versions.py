"""Reading a registered model of MLflow: its versions, who serves, and the network of a version."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.serving.predictor import Predictor
from longtail.spec import InputError
from longtail.tracking.server import Server, without_password

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Version:
    """A registered version.

    Args:
        run: id of the `evaluate` run that logged the model.
        created: in UTC.
        aliases: sorted.
    """

    number: str
    run: str
    created: datetime
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """A registered model as it was read.

    Args:
        versions: newest first.
        aliases: alias -> number; in some stores an alias outlives its version.
        tags: of the model, not of its versions.
    """

    versions: tuple[Version, ...]
    aliases: Mapping[str, str]
    tags: Mapping[str, str]

    def numbered(self, number: str | None) -> Version | None:
        """Return a version, if it exists."""
        return next((version for version in self.versions if version.number == number), None)

    def holder(self, alias: str) -> Version | None:
        """Return the version that has an alias."""
        return self.numbered(self.aliases.get(alias))


class Versions:
    """The versions of one registered model.

    Args:
        name: of the registered model; it need not exist yet.

    Raises:
        InputError: nothing can have this name.
    """

    def __init__(self, server: Server, name: str) -> None:
        if not NAME.fullmatch(name):
            raise InputError(f"'{name}' cannot be a model's name; use letters, digits, _, . and -, as in longtail.")
        self.server, self.name = server, name

    def read(self) -> Snapshot:
        """Read everything; a model that does not exist has no versions."""
        from mlflow.exceptions import MlflowException

        try:
            model = self.server.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return Snapshot((), {}, {})
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        versions = sorted((_version(found, aliases) for found in self._find()), key=lambda each: -int(each.number))
        return Snapshot(tuple(versions), aliases, dict(model.tags))

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""
        return list(self.read().versions)

    def champion(self) -> Version | None:
        """Return the version that serves."""
        return self.read().holder(CHAMPION)

    def previous(self) -> Version | None:
        """Return the champion before this one."""
        return self.read().holder(PREVIOUS)

    def challenger(self) -> Version | None:
        """Return the version that was registered last."""
        return self.read().holder(CHALLENGER)

    def version(self, number: str) -> Version:
        """Return a version.

        Raises:
            InputError: there is none of this number.
        """
        snapshot = self.read()
        found = snapshot.numbered(number)
        if found is None:
            known = ", ".join(version.number for version in snapshot.versions)
            remedy = f"Name one of {known}." if known else "Train one: python -m pipelines.retrain."
            raise InputError(f"Model {self.name} has no version {number}. {remedy}")
        return found

    def predictor(self, version: Version) -> Predictor:
        """Load a version's model.

        Raises:
            InputError: its files are gone, damaged or out of reach.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        uri = self.server.client.get_model_version_download_uri(self.name, version.number)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                fetch = partial(download_artifacts, dst_path=scratch, tracking_uri=self.server.uri)
                data = Model.load(fetch(f"{uri}/MLmodel")).flavors["python_function"]["data"]
                return Predictor.load(Path(fetch(f"{uri}/{data}")))  # the rest is our own code, as of that time
        except Exception as error:  # which library stumbles, and how, depends on the file and on where it is stored
            why = without_password((str(error).splitlines() or [""])[0])[:200].rstrip(".")
            raise InputError(
                f"Version {version.number} of model {self.name} cannot be loaded from {without_password(uri)} "
                f"({type(error).__name__}: {why}). Restore its files, or serve another version: "
                "python -m longtail.tracking.registry promote VERSION."
            ) from None

    def _find(self) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self.server.client.search_model_versions(f"name = '{self.name}'", page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _version(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    mine = tuple(sorted(alias for alias, holder in aliases.items() if holder == number))
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(number, str(found.run_id), created, dict(found.tags), mine)
