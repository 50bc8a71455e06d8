from dataclasses import replace

from outcomes import ABOUT, failed, outcome, summary
from pipelines.sweep_ranking import best_setting, mean_of, ranked
from pipelines.sweep_table import advice


def test_trials_are_ordered_by_validation_and_never_by_test() -> None:
    outcomes = [failed("0.1"), outcome("0.2", 0.6, test=0.9), outcome("0.3", None), outcome("0.4", 0.8, test=0.1)]
    order = [row.outcome.settings["beta"] for row in ranked(outcomes, "overall")]
    assert order == ["0.4", "0.2", "0.1", "0.3"]
    assert [mean_of(row, "overall") for row in ranked(outcomes, "overall")] == [0.8, 0.6, None, None]


def test_every_method_of_a_trial_has_a_row() -> None:
    validation, test = ({"ce": summary(ce), "glag": summary(glag)} for ce, glag in ((0.7, 0.6), (0.1, 0.2)))
    both = replace(outcome("0.2", 0.6), method=None, validation=validation, test=test)
    assert [row.method for row in ranked([both], "overall")] == ["ce", "glag"]


def test_the_best_setting_is_a_mean_over_seeds_not_a_lucky_seed() -> None:
    outcomes = [outcome("0.2", 0.9, seed=0), outcome("0.2", 0.5, seed=1),
                outcome("0.4", 0.8, seed=0), outcome("0.4", 0.8, seed=1),
                outcome("0.6", 1.0, seed=0), failed("0.6", seed=1)]  # fmt: skip
    found = best_setting(outcomes, "overall")
    assert found is not None
    rows, mean = found
    assert {row.outcome.settings["beta"] for row in rows} == {"0.4"} and mean == 0.8
    said = advice(outcomes, ABOUT)
    assert "glag, 80.0 % overall, mean over seeds 0, 1" in said
    assert said.endswith('make run PARAMS=params.yaml SET="beta=0.4 seeds=[0,1]"')


def test_a_setting_that_lacks_a_seed_is_not_the_best_where_trials_train_all_rows_either() -> None:
    outcomes = [replace(outcome("0.2", 0.9, seed=0), method=None), replace(failed("0.2", seed=1), method=None),
                replace(outcome("0.4", 0.5, seed=0), method=None)]  # fmt: skip
    found = best_setting(outcomes, "overall")
    assert found is not None and found[1] == 0.5


def test_without_scores_nothing_is_recommended() -> None:
    assert best_setting([outcome("0.2", None), failed("0.4")], "overall") is None
    assert "per_class must be above 0" in advice([outcome("0.2", None)], ABOUT)
