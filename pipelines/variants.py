"""A params file, and what the command line changes in it: `make run PARAMS=FILE SET="KEY=VALUE KEY=VALUE"`.

The numbers of a paper that stand in the file (`published`) were measured under its own settings. Under others they are
taken from published/FILE beside it, a list of `{set: {KEY: VALUE}, published: …}`, where an entry sets the very same
keys to the same values; else there are none.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.failures import UserError

ASIDE = {"seeds", "data.path", "data.download"}  # change nothing that a paper's numbers depend on
LONGEST = 120  # characters of a name; folders are called by it


@dataclass(frozen=True)
class Variant:
    """What a clone runs.

    Args:
        file: the params file.
        name: of the clone: the file's, and the changes.
        text: of the clone's params.yaml; the file's own where nothing is changed.
        changes: dotted key -> the value as it was typed.
    """

    file: Path
    name: str
    text: str
    changes: Mapping[str, str]

    @property
    def table(self) -> "Variant":
        """The same without what changes no number of a table: its results stand together, whatever the seeds."""
        return read_variant(self.file, [f"{key}={value}" for key, value in self.changes.items() if key not in ASIDE])

    @property
    def owner(self) -> str:
        """The file and the changes in words, which no other variant has."""
        return " ".join([str(self.file), *(f"{key}={value}" for key, value in self.changes.items())])


def read_variant(file: Path, words: Sequence[str]) -> Variant:
    """Read a params file and change it.

    Args:
        words: KEY=VALUE; the key's parts joined by dots, the value in YAML.

    Raises:
        UserError: there is no such file, or a word is no such pair, names a key twice, or leads nowhere.
    """
    if not file.is_file():
        raise UserError(f"PARAMS is '{file}', which is not a file. Name a params file, such as benchmarks/NAME.yaml.")
    changes = _changes(words)
    if not changes:
        return Variant(file, file.stem, file.read_text(), {})
    content = _content(file)
    keys = set(_keys(content)) | set(changes)
    name = "-".join([file.stem, *(f"{_shortest(key, keys)}={value}" for key, value in changes.items())])
    for key, value in changes.items():
        _set(content, key, value)
    settings = {key: yaml.safe_load(value) for key, value in changes.items() if key not in ASIDE}
    if settings:
        content["published"] = published_under(file, settings)
    said = " ".join(f"{key}={value}" for key, value in changes.items())
    text = f"# {file.name} with {said}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return Variant(file, _folder_name(name), text, changes)


def methods_of(variant: Variant, names: str) -> tuple[str, ...]:
    """Return the methods that a comma-separated list names.

    Raises:
        UserError: the params file has no such method.
    """
    known = _content(variant.file).get("methods") or {}
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            raise UserError(f"METHODS has '{name}', but {variant.file.name} has {', '.join(known)}. Choose from these.")
    if not wanted:
        raise UserError(f"METHODS is '{names}'; name rows of {variant.file.name}, such as METHODS={next(iter(known))}.")
    return wanted


def published_under(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published numbers of a params file under other settings (dotted key -> value), {} if there are none.

    Raises:
        UserError: published/FILE is no list of such entries.
    """
    tables = file.parent / "published" / file.name
    try:
        entries = yaml.safe_load(tables.read_text()) if tables.is_file() else []
        return next((dict(entry["published"]) for entry in entries if entry["set"] == settings), {})
    except (yaml.YAMLError, TypeError, KeyError):
        raise UserError(f"{tables} is no list of {{set: …, published: …}}; mend it or remove it.") from None


def _changes(words: Sequence[str]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"SET has '{word}'; write KEY=VALUE, such as data.imbalance_factor=50.")
        if key in changes:
            raise UserError(f"SET has {key} twice; keep one.")
        changes[key] = value
    return dict(sorted(changes.items()))


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no keys, so SET has nothing to change. Name a params file.")
    unshared: dict[str, Any] = _unshared(content)
    return unshared


def _unshared(node: Any) -> Any:
    """Copy what YAML aliases share, so that a change reaches one place."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def _keys(node: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield ".".join((*path, str(key)))
        yield from _keys(value, (*path, str(key)))


def _shortest(key: str, keys: set[str]) -> str:
    """Return the fewest last parts of a key that no other key ends in, or all of it."""
    parts = key.split(".")
    endings = (".".join(parts[start:]) for start in reversed(range(len(parts))))
    return next((ending for ending in endings if _count(ending, keys) == 1), key)


def _count(ending: str, keys: set[str]) -> int:
    return sum(f".{key}".endswith(f".{ending}") for key in keys)


def _set(content: dict[str, Any], key: str, value: str) -> None:
    """Set a key, making the mappings on the way; whether it may stand there is for the check of the whole file."""
    *parents, last = key.split(".")
    node: Any = content
    for number, part in enumerate(parents):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"SET has {key}, but {'.'.join(parents[: number + 1])} has no keys; set it as a whole.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"SET gives {key} the value '{value}', which is not valid YAML; quote it.") from None


def _folder_name(name: str) -> str:
    name = re.sub(r"[^\w.,=+-]+", "_", re.sub(r"[\s\[\]{}'\"]+", "", name))
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
