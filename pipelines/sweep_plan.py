"""What a sweep runs: the product of its grids, every trial checked before the first one starts.

A trial is a variant of a params file (pipelines/variants.py). With methods named, it keeps one row of `methods` and the
representations below it, so that nothing is trained that its score does not depend on; numbers of other rows then say
nothing about it and do not multiply it.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipelines.failures import UserError
from pipelines.rows import only_method
from pipelines.sweep_grid import Axis, read_axes
from pipelines.sweep_waves import work_of
from pipelines.variants import Variant, read_variant

if TYPE_CHECKING:  # longtail imports torch, which a refusal of the command line need not wait for
    from longtail.params import Params

ROWS = ("methods", "representations")


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Args:
        variant: what its clone runs.
        words: KEY=VALUE of the grid that it depends on.
        method: the row of `methods` that it keeps, or None for all.
        seeds: its training seeds.
        work: identifies each row that it trains; what two trials have in common is trained once.
    """

    variant: Variant
    words: tuple[str, ...]
    method: str | None
    seeds: tuple[int, ...]
    work: frozenset[str]

    @property
    def name(self) -> str:
        """Name of its clone, log and outcome."""
        return self.variant.name


@dataclass(frozen=True)
class Sweep:
    """All trials of one command.

    Args:
        name: of the folder of its results.
        file: the params file.
    """

    name: str
    file: Path
    trials: tuple[Trial, ...]


def plan_sweep(file: Path, grids: Sequence[str], methods: Sequence[str] = (), name: str | None = None) -> Sweep:
    """Return the trials of a sweep, all of which the params' own check has passed.

    Args:
        file: the params file.
        grids: KEY=VALUE,VALUE,…
        methods: rows of `methods`, each in trials of its own; () trains all rows in every trial.
        name: of the folder of results; by default the file's, and the grids.

    Raises:
        UserError: there is nothing to vary, or a grid, a method or a trial does not hold.
    """
    axes = read_axes(grids)
    if not axes and not methods:
        raise UserError("There is nothing to vary: give --grid KEY=VALUE,VALUE, or --methods.")
    _check_methods(file, methods)
    trials: dict[str, Trial] = {}
    for method in methods or (None,):
        for values in product(*(axis.values for axis in axes)):
            trial = plan_trial(file, [f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True)], method)
            trials.setdefault(trial.name, trial)
    _check_effect(axes, trials.values(), methods)
    return Sweep(name or _name(file, axes, methods), file, tuple(trials.values()))


def plan_trial(file: Path, words: Sequence[str], method: str | None) -> Trial:
    """Return one trial.

    Raises:
        UserError: the params file does not hold with these words; the sentences about it.
    """
    params = _checked(read_variant(file, words))
    if method is None:
        return _trial(read_variant(file, words), words, None, params)
    kept = [word for word in words if _concerns(word.partition("=")[0], method, params)]
    variant = _with_one_method(read_variant(file, kept), method, params)
    return _trial(variant, kept, method, _checked(variant))


def _trial(variant: Variant, words: Sequence[str], method: str | None, params: "Params") -> Trial:
    return Trial(variant, tuple(words), method, params.seeds, work_of(params))


def _checked(variant: Variant) -> "Params":
    from longtail.params import load_params
    from longtail.spec import InputError

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / variant.file.name
        file.write_text(variant.text)
        try:
            return load_params(file)
        except InputError as error:
            words = " ".join(f"{key}={value}" for key, value in variant.changes.items())
            said = f"{variant.file.name} with {words}" if words else variant.file.name
            raise UserError(str(error).replace(str(file), said)) from None


def _check_methods(file: Path, methods: Sequence[str]) -> None:
    rows = _checked(read_variant(file, ())).methods
    for method in methods:
        if method not in rows:
            raise UserError(f"--methods has '{method}', which {file.name} has not; choose from {', '.join(rows)}.")
    if len(set(methods)) < len(methods):
        raise UserError("--methods has one row twice; keep one.")


def _check_effect(axes: Sequence[Axis], trials: Iterable[Trial], methods: Sequence[str]) -> None:
    used = {word.partition("=")[0] for trial in trials for word in trial.words}
    for axis in axes:
        if axis.key not in used:
            raise UserError(f"--grid has {axis.key}, which changes nothing for {', '.join(methods)}; remove it.")


def _concerns(key: str, method: str, params: "Params") -> bool:
    """Tell whether a key can change what one method gives."""
    kind, _, rest = key.partition(".")
    own = {"methods": [method], "representations": params.lineage(params.methods[method].representation)}
    return kind not in ROWS or not rest or rest.partition(".")[0] in own[kind]


def _with_one_method(variant: Variant, method: str, params: "Params") -> Variant:
    content = only_method(yaml.safe_load(variant.text), params, method)
    content["published"] = {row: numbers for row, numbers in content["published"].items() if row == method}
    content["retrain"] = None  # names a row, perhaps another one; a sweep retrains nothing
    changes = {**variant.changes, "methods": method}
    said = " ".join(f"{key}={value}" for key, value in changes.items())
    text = f"# {variant.file.name} with {said}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return Variant(variant.file, f"{variant.name}-{method}", text, changes)


def _name(file: Path, axes: Sequence[Axis], methods: Sequence[str]) -> str:
    listed = [f"{axis.key}=[{','.join(axis.values)}]" for axis in axes]
    return "-".join(["sweep", read_variant(file, listed).name, *methods])
