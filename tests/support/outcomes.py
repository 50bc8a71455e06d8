"""Outcomes of trials that never ran."""

from dataclasses import replace
from typing import Any

from pipelines.sweep_table import Provenance
from pipelines.sweep_trial import Outcome

ABOUT = Provenance("params.yaml", "overall", False, 2, "abc1234", "a processor, 2 cores")


def summary(mean: float | None, std: float | None = None) -> dict[str, Any]:
    """Give one number to two metrics."""
    return {metric: {"mean": mean, "std": std, "n": 1} for metric in ("overall", "few")}


def outcome(beta: str, validation: float | None, test: float = 0.5, seed: int = 0) -> Outcome:
    """Make the outcome of a trial of glag that took a minute."""
    content: dict[str, Any] = {
        "name": f"params-beta={beta}-seeds={seed}",
        "settings": {"beta": beta, "seeds": f"[{seed}]"},
        "method": "glag",
        "seeds": (seed,),
        "state": "finished",
        "reason": "",
        "started": 0.0,
        "ended": 60.0,
        "validation": {"glag": None if validation is None else summary(validation)},
        "test": {"glag": summary(test)},
    }
    return Outcome(**content)


def failed(beta: str, seed: int = 0) -> Outcome:
    """Make the outcome of a trial that failed."""
    return replace(outcome(beta, None, seed=seed), state="failed", reason="no | disk", validation={}, test={})
