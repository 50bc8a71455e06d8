"""What the stages left on disk: its identity, its numbers, its parameters."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.params import Params
from longtail.tracking.outputs import Outputs, all_outputs, epoch_numbers, flat_numbers, flat_params, params_of

names = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text)
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3) | st.just([1.0, 2.0])
documents = st.dictionaries(names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3)))


pytest_plugins = ["tracking_fixtures"]


def test_all_outputs_are_the_stages_of_dvc_yaml_in_the_order_in_which_they_run(params: Params) -> None:
    names = [outputs.name for outputs in all_outputs(params)]
    assert names[0] == "split"
    assert names[-1] == "report"
    for method, row in params.methods.items():
        chain = [
            f"train@{row.representation}",
            f"extract@{row.representation}",
            f"finetune@{method}",
            f"evaluate@{method}",
        ]
        positions = [names.index(name) for name in chain]
        assert positions == sorted(positions)


def test_outputs_are_identified_by_content_alone(project: Path, params: Params) -> None:
    before = {outputs.name: outputs.digest() for outputs in all_outputs(params)}
    assert None not in before.values()
    assert len(set(before.values())) == len(before)
    for file in project.rglob("*.*"):
        if file.suffix in (".safetensors", ".json", ".jsonl"):
            file.write_bytes(file.read_bytes())  # another time, the same bytes
    (project / "reports/leaderboard.md").write_text("another commit, another time")
    assert {outputs.name: outputs.digest() for outputs in all_outputs(params)} == before


def test_other_content_is_another_identity(project: Path, params: Params) -> None:
    _, train, extract, *_ = all_outputs(params)
    before = {outputs.name: outputs.digest() for outputs in all_outputs(params)}
    weights = train.folder / f"seed_{params.seeds[0]}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = {outputs.name for outputs in all_outputs(params) if outputs.digest() != before[outputs.name]}
    assert changed == {train.name, extract.name}, "features are identified by the network that made them"


def test_missing_outputs_have_no_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params) -> None:
    monkeypatch.chdir(tmp_path)
    assert {outputs.digest() for outputs in all_outputs(params)} == {None}


def test_an_evaluation_brings_the_size_of_its_network_where_it_was_counted(project: Path, params: Params) -> None:
    outputs = Outputs("evaluate", next(iter(params.methods)))
    file = project / outputs.folder / "metrics.json"
    counted = json.loads(file.read_text()) | {"parameters": 464154}
    file.write_text(json.dumps(counted))
    with_size = outputs.final_metrics()
    assert with_size["parameters"] == 464154
    del counted["parameters"]  # as earlier versions wrote it, which `sync` still sends
    file.write_text(json.dumps(counted))
    assert outputs.final_metrics() == {name: value for name, value in with_size.items() if name != "parameters"}


@given(documents)
def test_flat_numbers_are_exactly_the_numbers_under_names_that_mlflow_takes(document: dict[str, Any]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    flat = flat_numbers(document)
    for name in flat:
        _validate_metric_name(name)  # type: ignore[no-untyped-call]
    assert len(flat) <= _count(document)
    if all(name.isascii() and name.isalnum() for name in _all_names(document)):
        assert len(flat) == _count(document)


def _count(document: Any) -> int:
    if isinstance(document, dict):
        return sum(_count(value) for value in document.values())
    return int(isinstance(document, int | float))


def _all_names(document: Any) -> list[str]:
    if not isinstance(document, dict):
        return []
    return [*document, *(name for value in document.values() for name in _all_names(value))]


def test_an_epoch_is_named_by_its_seed_and_a_list_by_its_mean_and_ends() -> None:
    numbers = epoch_numbers(7, {"epoch": 3, "loss": 0.5, "beta": [0.1, 0.2, 0.6], "nothing": []})
    expected = {"loss": 0.5, "beta_mean": 0.3, "beta_min": 0.1, "beta_max": 0.6}
    assert set(numbers) == {f"seed_7/{name}" for name in expected}
    assert all(math.isclose(numbers[f"seed_7/{name}"], value) for name, value in expected.items())


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), leaves | st.dictionaries(names, leaves)))
def test_flat_params_lose_nothing(document: dict[str, Any]) -> None:
    flat = flat_params(document)
    for name, value in document.items():
        for key, part in value.items() if isinstance(value, dict) else []:
            assert flat[f"{name}.{key}"] == (part if isinstance(part, str) else json.dumps(part))
        if not isinstance(value, dict):
            assert flat[name] == (value if isinstance(value, str) else json.dumps(value))


def test_a_row_is_recorded_with_everything_that_it_depends_on(params: Params) -> None:
    method, row = next(iter(params.methods.items()))
    flat = params_of(Outputs("evaluate", method), params)
    assert flat["representation"] == row.representation
    assert flat["balancer.name"] == row.balancer.name
    assert flat["network.backbone"] == params.network_of(row.representation).backbone
    assert flat["plan.epochs"] == str(params.plan_of(row.representation).epochs)
    assert flat["seeds"] == json.dumps(params.seeds)
    assert "balancer.name" not in params_of(Outputs("train", row.representation), params)
    assert set(params_of(Outputs("split", ""), params)) >= {"data.name", "seeds"}
