from pathlib import Path

from pipelines.sweep_plan import plan_sweep
from pipelines.sweep_waves import waves
from sweep_project import BETA

pytest_plugins = ["sweep_fixtures"]


def groups(file: Path, *grids: str, methods: tuple[str, ...] = ()) -> list[int]:
    return [len(group) for group in waves(plan_sweep(file, grids, methods).trials)]


def test_trials_that_share_a_network_wait_for_the_one_that_trains_it(file: Path) -> None:
    assert groups(file, f"{BETA}=0.2,0.4,0.6") == [1, 2]
    assert groups(file, f"{BETA}=0.2,0.4,0.6", "seeds=[0],[1]") == [2, 4]


def test_trials_that_share_nothing_run_at_once(file: Path) -> None:
    assert groups(file, "plan.lr=0.1,0.2,0.3") == [3]
    assert groups(file, methods=("ce", "glag")) == [2]
    assert groups(file, methods=("ce", "crt", "glag")) == [2, 1]


def test_every_trial_runs_once_in_some_group(file: Path) -> None:
    trials = plan_sweep(file, [f"{BETA}=0.2,0.4", "representations.gradual.loss.c=2.0,3.0"]).trials
    assert sorted(trial.name for group in waves(trials) for trial in group) == sorted(trial.name for trial in trials)
    done: set[str] = set()
    for group in waves(trials):
        begun = [row for trial in group for row in trial.work - done]
        assert len(begun) == len(set(begun))
        done |= set(begun)
