from pathlib import Path

import pytest
import yaml

from pipelines.failures import UserError
from pipelines.sweep_plan import Trial, plan_sweep
from sweep_project import BETA

pytest_plugins = ["sweep_fixtures"]


def refused(file: Path, *grids: str, methods: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        plan_sweep(file, grids, methods)
    return str(caught.value)


def text_of(trial: Trial) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(trial.variant.text)
    return content


def test_trials_are_the_product_of_the_grids(file: Path) -> None:
    sweep = plan_sweep(file, [f"{BETA}=0.2,0.4", "seeds=[0],[1]"])
    assert [trial.words for trial in sweep.trials] == [
        (f"{BETA}={beta}", f"seeds={seeds}") for beta in ("0.2", "0.4") for seeds in ("[0]", "[1]")
    ]
    assert [trial.seeds for trial in sweep.trials] == [(0,), (1,), (0,), (1,)]
    assert len({trial.name for trial in sweep.trials}) == 4
    assert sweep.name == "sweep-digits-beta_0=0.2,0.4-seeds=0,1"


def test_a_trial_of_one_method_trains_that_row_and_what_lies_below_it(file: Path) -> None:
    (trial,) = plan_sweep(file, [], ["glag"]).trials
    content, whole = text_of(trial), yaml.safe_load(file.read_text())
    assert content["methods"] == {"glag": whole["methods"]["glag"]}
    assert content["representations"] == {row: whole["representations"][row] for row in ("first", "gradual")}
    assert content["retrain"] is None
    assert content["plan"] == whole["plan"]


def test_a_number_of_another_row_does_not_multiply_a_methods_trials(file: Path) -> None:
    grids = [f"{BETA}=0.2,0.4", "representations.ce.plan.epochs=1,2", "plan.lr=0.1,0.2"]
    trials = plan_sweep(file, grids, ["ce", "glag"]).trials
    by_method = {m: [trial.words for trial in trials if trial.method == m] for m in ("ce", "glag")}
    assert [len(words) for words in by_method.values()] == [4, 4]
    assert all(BETA not in " ".join(words) for words in by_method["ce"])
    assert all("representations.ce" not in " ".join(words) for words in by_method["glag"])


def test_a_bad_trial_is_refused_with_all_the_others(file: Path) -> None:
    assert refused(file, f"{BETA}=0.2,1.7").startswith(f"digits.yaml with {BETA}=1.7: {BETA}: ")
    assert "methods.glag.balancer.beta_9 is not a known key" in refused(file, "methods.glag.balancer.beta_9=1,2")
    assert "seeds" in refused(file, "seeds=[0],[]")
    assert "methods.glag.representation is 'none'" in refused(file, "methods.glag.representation=none", methods=("ce",))


def test_a_sweep_that_varies_nothing_is_refused(file: Path) -> None:
    assert "nothing to vary" in refused(file)
    assert f"{BETA}, which changes nothing for ce, crt" in refused(file, f"{BETA}=0.2,0.4", methods=("ce", "crt"))


def test_methods_are_rows_of_the_file(file: Path) -> None:
    assert "--methods has 'glog', which digits.yaml has not; choose from ce, crt" in refused(file, methods=("glog",))
    assert "--methods has ''" in refused(file, methods=("",))
    assert "one row twice" in refused(file, methods=("ce", "ce"))
    assert "is not a file" in refused(file.with_name("none.yaml"), methods=("ce",))


def test_a_file_that_does_not_hold_is_refused_by_its_name(file: Path) -> None:
    file.write_text(file.read_text().replace("seeds:", "sedes:"))
    assert refused(file, "plan.lr=0.1,0.2").startswith("digits.yaml")
