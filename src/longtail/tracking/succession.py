"""How the alias `champion` moves from one version to another so that nothing is lost, whatever dies in between.

A version that becomes champion carries the list of the champions before it, newest first, in a tag of its own. A change
is noted on the registered model first; then comes that tag; then `champion` moves, in one call; then `previous`
follows, and the note goes. So there is one champion at any time, its predecessors can be read off it, and whoever comes
next sees from the note and the champion whether to finish a change or to drop it.

A rollback goes one step back in that list. The version that it leaves is no longer in it, so rolling back again goes
further back and ends with the first champion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from longtail.tracking.versions import CHAMPION, PREVIOUS, Snapshot, Version, Versions

CHANGE = "longtail.change"  # tag of the registered model, while `champion` moves
PREDECESSORS = "longtail.predecessors"  # tag of a version that is or was champion
LEFT = "longtail.rolled_back_to"  # tag of a version that a rollback has left
REMEMBERED = 1000  # predecessors: MLflow limits the length of a tag
NOBODY = "none"  # in the tags, where there is no version


@dataclass(frozen=True)
class Change:
    """`champion` goes from one version, or NOBODY, to another.

    Args:
        command: "promote" or "rollback".
    """

    command: str
    left: str
    to: str

    def __str__(self) -> str:
        return f"{self.command}: {self.left} -> {self.to}"

    @classmethod
    def noted(cls, snapshot: Snapshot) -> Self | None:
        """Return the change that has begun and not ended."""
        found = re.fullmatch(rf"(promote|rollback): (\d+|{NOBODY}) -> (\d+)", snapshot.tags.get(CHANGE, ""))
        return cls(*found.groups()) if found else None


def line_before(champion: Version, snapshot: Snapshot) -> list[str]:
    """Return the champions before this one that still exist, newest first.

    One whose alias was moved by hand has no list; all that remains then is the alias `previous`.
    """
    before = champion.tags.get(PREDECESSORS, snapshot.aliases.get(PREVIOUS, NOBODY)).split()
    line = [champion.number, *(number for number in before if snapshot.numbered(number))]
    return [number for number, _ in groupby(line)][1:]  # a deleted version may have stood between two equal ones


class Succession:
    """The moves of `champion`; who calls them holds the lock."""

    def __init__(self, versions: Versions) -> None:
        self.versions, self.name, self.client = versions, versions.name, versions.server.client

    def move(self, change: Change, line: Sequence[str]) -> None:
        """Make `change.to` champion; where this is cut off between two calls, `mend` goes on.

        Args:
            line: the champions before it, newest first.
        """
        self.client.set_registered_model_tag(self.name, CHANGE, str(change))
        self.client.set_model_version_tag(self.name, change.to, PREDECESSORS, " ".join(line[:REMEMBERED]) or NOBODY)
        self.client.set_registered_model_alias(self.name, CHAMPION, change.to)
        self._finish(change)

    def mend(self) -> str | None:
        """Finish or drop a change that was cut off, and say what was found; None if all is well."""
        return " ".join(filter(None, [self._settle(), self._replace(), self._follow()])) or None

    def _finish(self, change: Change) -> None:
        """Do what is left to do once `champion` has moved; doing it twice does no harm."""
        self._follow()
        snapshot = self.versions.read()
        new, old = snapshot.numbered(change.to), snapshot.numbered(change.left)
        if new and LEFT in new.tags:
            self.client.delete_model_version_tag(self.name, new.number, LEFT)
        if old and change.command == "rollback":
            self.client.set_model_version_tag(self.name, old.number, LEFT, change.to)
        self.client.delete_registered_model_tag(self.name, CHANGE)

    def _follow(self) -> str | None:
        """Let `previous` be the champion's predecessor; say so if it was not."""
        snapshot = self.versions.read()
        champion = snapshot.holder(CHAMPION)
        line = line_before(champion, snapshot) if champion else []
        was, now = snapshot.aliases.get(PREVIOUS), line[0] if line else None
        if champion is None or was == now:
            return None
        if now:
            self.client.set_registered_model_alias(self.name, PREVIOUS, now)
        else:
            self.client.delete_registered_model_alias(self.name, PREVIOUS)
        before = f"version {was}" if was else "missing"
        after = f"the champion followed version {now}, which it names now" if now else "the champion is the first"
        return f"The alias {PREVIOUS} of {self.name} was {before}, but {after}."

    def _settle(self) -> str | None:
        snapshot = self.versions.read()
        change, champion = Change.noted(snapshot), snapshot.holder(CHAMPION)
        if change is None:
            return None
        what = {"promote": "promotion", "rollback": "rollback"}[change.command]
        found = f"A {what} of {self.name} from version {change.left} to {change.to} was cut off"
        if champion and champion.number == change.to:
            self._finish(change)
            return f"{found} when version {change.to} served already; it is complete now."
        self.client.delete_registered_model_tag(self.name, CHANGE)
        serving = f"version {champion.number} serves" if champion else "no version serves"
        return f"{found} before it took effect; {serving} as before. Run it again if you still want it."

    def _replace(self) -> str | None:
        """Put the predecessor in the place of a champion that was deleted by hand."""
        snapshot = self.versions.read()
        heir = snapshot.holder(PREVIOUS)
        if heir is None or snapshot.holder(CHAMPION):
            return None
        self.client.set_registered_model_alias(self.name, CHAMPION, heir.number)
        return f"{self.name} had no champion any more; version {heir.number}, which served before, serves again."
