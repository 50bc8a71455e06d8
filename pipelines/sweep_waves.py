"""Which trials of a sweep may run at once, so that no two train the same network side by side."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # longtail imports torch, which a refusal of the command line need not wait for
    from longtail.params import Params
    from pipelines.sweep_plan import Trial


def work_of(params: "Params") -> frozenset[str]:
    """Identify each row that a params file trains, with all that its training depends on."""
    from longtail.workspace import digest_of

    def trained(row: str) -> str:
        below = [trained(other) for other in params.lineage(row)[1:2]]
        parts = (params.data, params.network_of(row), params.plan_of(row), params.extract, params.representations[row])
        return digest_of(row, params.seeds, below, *(part.model_dump(mode="json") for part in parts))

    features = {row: trained(row) for row in params.representations}
    rows = params.methods.items()
    fitted = [digest_of(name, features[row.representation], row.model_dump(mode="json")) for name, row in rows]
    return frozenset({*features.values(), *fitted})


def waves(trials: Sequence["Trial"]) -> Iterator[list["Trial"]]:
    """Divide trials into groups that may run at once: no two of a group train the same row for the first time.

    What one trial trains, those of later groups take from DVC's cache.
    """
    done: set[str] = set()
    waiting = list(trials)
    while waiting:
        group, begun = [], set[str]()
        for trial in waiting:
            if not (trial.work - done) & begun:
                group.append(trial)
                begun |= trial.work - done
        yield group
        done |= begun
        waiting = [trial for trial in waiting if trial not in group]
