"""Reading a registered model of MLflow: its versions, who serves, and the network of a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.prediction import Predictor
from longtail.spec import InputError
from longtail.tracking.server import Server

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
MOST = 10_000  # versions that are listed


@dataclass(frozen=True)
class Version:
    """A registered version.

    Args:
        run: id of the `evaluate` run that logged the model.
        created: milliseconds since 1970.
        aliases: sorted.
    """

    number: str
    run: str
    created: int
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


class Versions:
    """The versions of one registered model.

    Args:
        name: of the registered model; it need not exist yet.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""
        aliases = self.aliases()
        found = self.server.client.search_model_versions(f"name = '{self.name}'", max_results=MOST)
        return sorted((_version(each, aliases) for each in found), key=lambda version: -int(version.number))

    def champion(self) -> Version | None:
        """Return the version that serves."""
        return self._holding(CHAMPION)

    def previous(self) -> Version | None:
        """Return the champion before this one."""
        return self._holding(PREVIOUS)

    def challenger(self) -> Version | None:
        """Return the version that was registered last."""
        return self._holding(CHALLENGER)

    def version(self, number: str) -> Version:
        """Return a version.

        Raises:
            InputError: there is none of this number.
        """
        versions = self.versions()
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(version.number for version in versions) or "none"
        raise InputError(f"Model {self.name} has no version {number}. Name one of: {known}.")

    def aliases(self) -> dict[str, str]:
        """Return alias -> number; a deleted version takes its aliases along."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self.server.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: str(number) for alias, number in aliases.items()}

    def predictor(self, version: Version) -> Predictor:
        """Load a version's model.

        Raises:
            InputError: its files are gone or damaged.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        try:
            uri = self.server.client.get_model_version_download_uri(self.name, version.number)
            folder = Path(download_artifacts(artifact_uri=uri, tracking_uri=self.server.uri))
            return Predictor.load(folder / Model.load(folder).flavors["python_function"]["data"])
        except Exception as error:
            why = (str(error).splitlines() or ["no reason given"])[0]
            raise InputError(
                f"Version {version.number} of model {self.name} cannot be loaded ({type(error).__name__}: {why}). "
                "Restore its files, or promote another version: python -m longtail.tracking.registry promote VERSION."
            ) from None

    def _holding(self, alias: str) -> Version | None:
        number = self.aliases().get(alias)
        return next((version for version in self.versions() if version.number == number), None)


def _version(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    mine = tuple(sorted(alias for alias, holder in aliases.items() if holder == number))
    return Version(number, str(found.run_id), int(found.creation_timestamp), dict(found.tags), mine)
