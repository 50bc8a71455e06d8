"""Results that stay: rows add up seed by seed, go only with their recipe, and keep their origin."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from longtail.params import Params
from longtail.report.results import add, bring, differences, lack, load, recipe_of

pytest_plugins = ["tracking_fixtures"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every stage has run, outside git."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LONGTAIL_COMMIT", "abc1234")
    monkeypatch.setenv("LONGTAIL_HOME", str(tmp_path))
    return folder


def names(params: Params) -> tuple[str, ...]:
    return tuple(params.methods)


def changed(params: Params, **keys: Any) -> Params:
    """Params with other top-level keys."""
    return Params.model_validate({**params.model_dump(mode="json"), **keys})


def with_seed(seed: int, overall: float, method: str) -> None:
    """Pretend that the working folder's run of a method was of one seed."""
    file = Path("evaluations", method, "metrics.json")
    document = json.loads(file.read_text())
    document["seeds"] = {str(seed): {**next(iter(document["seeds"].values())), "overall": overall}}
    file.write_text(json.dumps(document))


def test_a_run_becomes_a_table_with_its_origin(run: Path, params: Params) -> None:
    add(Path("results"), params, names(params), run)
    rows = load(Path("results"))
    assert list(rows) == list(params.methods)
    for method, row in rows.items():
        document = json.loads(Path("evaluations", method, "metrics.json").read_text())
        assert row["summary"] == document["summary"] and row["parameters"] == document["parameters"]
        assert {entry["commit"] for entry in row["seeds"].values()} == {"abc1234"}
    board = Path("results/leaderboard.md").read_text()
    assert "- Commit: abc1234.\n" in board and "- Seeds: 0, 3.\n" in board and "Missing" not in board


def test_seeds_add_up_in_a_row(run: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    method = names(params)[0]
    for seed, overall, commit in ((3, 0.5, "later"), (0, 0.25, "abc1234")):
        with_seed(seed, overall, method)
        monkeypatch.setenv("LONGTAIL_COMMIT", commit)
        add(Path("results"), params, (method,), run)
    row = load(Path("results"))[method]
    assert list(row["seeds"]) == ["0", "3"]
    assert row["summary"]["overall"] == {"mean": fmean([0.25, 0.5]), "std": stdev([0.25, 0.5]), "n": 2}
    assert "- Commit: abc1234, later.\n" in Path("results/leaderboard.md").read_text()


def test_equal_metrics_keep_their_first_origin(run: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    add(Path("results"), params, names(params), run)
    before = {file.name: file.read_bytes() for file in Path("results").iterdir()}
    monkeypatch.setenv("LONGTAIL_COMMIT", "later")
    add(Path("results"), params, names(params), run)
    assert {file.name: file.read_bytes() for file in Path("results").iterdir()} == before
    with_seed(0, 0.125, names(params)[0])
    add(Path("results"), params, names(params)[:1], run)
    seeds = load(Path("results"))[names(params)[0]]["seeds"]
    assert (seeds["0"]["commit"], seeds["3"]["commit"]) == ("later", "abc1234")


def test_rows_that_were_not_run_or_by_another_recipe_are_named(run: Path, params: Params) -> None:
    one, other = names(params)
    add(Path("results"), params, (one,), run)
    board = Path("results/leaderboard.md").read_text()
    assert f"- Missing: {other} (not run)." in board and re.search(rf"^\| {one} \|", board, re.MULTILINE)

    longer = changed(params, plan={**params.plan.model_dump(mode="json"), "epochs": 61})
    add(Path("results"), longer, (other,), run)
    board = Path("results/leaderboard.md").read_text()
    key = "stage_one.0.plan.epochs"
    assert f"- Missing: {one} (run by another recipe at abc1234: {key})." in board
    assert not re.search(rf"^\| {one} \|", board, re.MULTILINE)
    assert set(load(Path("results"))) == {one, other}  # what was measured is not thrown away

    add(Path("results"), longer, (one,), run)
    assert "Missing" not in Path("results/leaderboard.md").read_text()


def test_seeds_and_paths_are_no_part_of_a_recipe(params: Params) -> None:
    method = names(params)[0]
    moved = changed(params, seeds=[7], data={**params.data.model_dump(mode="json"), "path": "elsewhere"})
    assert recipe_of(moved, method) == recipe_of(params, method)
    json.dumps(recipe_of(params, method))


def test_a_key_that_came_later_makes_no_old_result_another(params: Params, run: Path) -> None:
    method = names(params)[0]
    add(Path("results"), params, (method,), run)
    rows = load(Path("results"))
    del rows[method]["recipe"]["data"]["subset"]
    assert lack(rows, params, method) == ""
    rows[method]["recipe"]["data"]["gone"] = 1
    assert "data.gone" in lack(rows, params, method)


def test_every_number_of_a_row_is_in_its_recipe(params: Params) -> None:
    method = names(params)[0]
    document = params.model_dump(mode="json")
    representation = params.methods[method].representation
    for path in (("data", "imbalance_factor"), ("plan", "lr"), ("extract", "views"), ("evaluation", "many_above")):
        other = json.loads(json.dumps(document))
        other[path[0]][path[1]] += 1
        assert list(differences(recipe_of(params, method), recipe_of(Params.model_validate(other), method)))
    other = json.loads(json.dumps(document))
    other["representations"][representation]["loss"] = {"name": "balanced_softmax"}
    found = list(differences(recipe_of(params, method), recipe_of(Params.model_validate(other), method)))
    assert found == ["stage_one.0.loss.name"]


def test_histories_of_other_rows_and_seeds_stay(run: Path, params: Params) -> None:
    one, other = names(params)
    add(Path("results"), params, (one,), run)
    add(Path("results"), params, (other,), run)
    lines = list(csv.DictReader(Path("results/histories.csv").read_text().splitlines()))
    keys = [(line["stage"], line["row"], line["seed"], line["epoch"]) for line in lines]
    assert len(set(keys)) == len(keys) and {line["row"] for line in lines} >= {one, other}
    representation = params.methods[one].representation
    for seed in params.seeds:
        history = Path("models", representation, f"seed_{seed}", "history.jsonl").read_text().splitlines()
        mine = [
            line for line in lines if (line["stage"], line["row"], line["seed"]) == ("train", representation, str(seed))
        ]
        assert [float(line["loss"]) for line in mine] == pytest.approx(
            [json.loads(line)["loss"] for line in history], rel=1e-5
        )


def test_another_machines_seeds_join_and_other_recipes_stay_away(
    run: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = names(params)
    add(Path("mine"), params, (one,), run)
    monkeypatch.setenv("LONGTAIL_COMMIT", "theirs")
    with_seed(7, 0.5, one)
    add(Path("theirs"), params, names(params), run)
    assert bring(Path("mine"), Path("theirs"), params) == []
    rows = load(Path("mine"))
    assert {seed: entry["commit"] for seed, entry in rows[one]["seeds"].items()} == {
        "0": "abc1234", "3": "abc1234", "7": "theirs"
    }  # fmt: skip
    assert rows[one]["summary"]["overall"]["n"] == 3 and rows[other] == load(Path("theirs"))[other]
    again = Path("mine/metrics.json").read_bytes()
    assert bring(Path("mine"), Path("theirs"), params) == [] and Path("mine/metrics.json").read_bytes() == again

    longer = changed(params, plan={**params.plan.model_dump(mode="json"), "epochs": 61})
    add(Path("longer"), longer, (one,), run)
    assert bring(Path("mine"), Path("longer"), params) == [one]
    assert load(Path("mine")) == rows


def test_a_row_of_other_images_is_replaced(run: Path, params: Params) -> None:
    method = names(params)[0]
    add(Path("results"), params, (method,), run)
    about = Path("data/split/classes.json")
    about.write_text(re.sub(r'"digest": ".*?"', '"digest": "other"', about.read_text()))
    with_seed(7, 0.5, method)
    add(Path("results"), params, (method,), run)
    assert list(load(Path("results"))[method]["seeds"]) == ["7"]


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-m", "longtail.report.results", *arguments]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_command_adds_rows(run: Path, params: Params) -> None:
    assert command(run, "results").returncode == 0
    assert set(load(run / "results")) == set(params.methods)
    assert yaml.safe_load((run / "results" / "metrics.json").read_text())


@pytest.mark.parametrize("arguments", [(), ("results", "nothing")], ids=["no folder", "no evaluation"])
def test_what_cannot_be_added_is_one_sentence(run: Path, arguments: tuple[str, ...]) -> None:
    said = command(run, *arguments)
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1 and not (run / "results").exists()
