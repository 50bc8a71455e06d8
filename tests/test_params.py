"""params.yaml: complete, typed, and refused in one sentence when it does not hold."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from longtail.loading.sampling import Deferred
from longtail.params import Params, load_params
from longtail.spec import InputError

ROOT = Path(__file__).parent.parent
FILES = sorted([ROOT / "params.yaml", *(ROOT / "benchmarks").glob("*.yaml")])
CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())


def refused(tmp_path: Path, path: str, value: Any) -> str:
    """Write params.yaml with one value changed; return what is said of it."""
    content = copy.deepcopy(CONTENT)
    node = content
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(InputError) as caught:
        load_params(file)
    return str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_shipped_params_file_is_valid(file: Path) -> None:
    assert load_params(file).methods


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_key_is_written(file: Path) -> None:
    """`dvc exp run -S` reaches only keys that stand in the file, and one row without a key breaks every DVC command."""
    content = yaml.safe_load(file.read_text())
    params = Params.model_validate(content)
    for path, model in specs(params):
        written = content
        for part in path:
            written = written[part]
        assert set(written) == set(type(model).model_fields), f"{file.name}: {'.'.join(map(str, path))}"


def specs(model: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], BaseModel]]:
    """List all nested specs with their paths."""
    found: list[tuple[tuple[Any, ...], BaseModel]] = []
    if isinstance(model, BaseModel):
        found.append((path, model))
        for name in type(model).model_fields:
            found += specs(getattr(model, name), (*path, name))
    if isinstance(model, dict):
        for name, value in model.items():
            found += specs(value, (*path, name))
    return found


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    assert "plan.learning_rate is not a known key" in refused(tmp_path, "plan.learning_rate", 0.1)


def test_a_wrong_value_is_named_with_its_path_and_what_came(tmp_path: Path) -> None:
    assert "methods.glag.balancer.beta_0" in refused(tmp_path, "methods.glag.balancer.beta_0", 7)
    message = refused(tmp_path, "plan.lr", -1)
    assert "plan.lr" in message and "-1" in message


def test_a_method_on_a_representation_that_is_not_there(tmp_path: Path) -> None:
    message = refused(tmp_path, "methods.crt.representation", "cee")
    assert "methods.crt.representation is 'cee'; choose one of " in message


def test_an_unknown_member_of_a_union_lists_the_known_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, "representations.ce.loss.name", "crossentropy")
    assert "representations.ce.loss" in message and "cross_entropy" in message


def test_a_row_that_starts_from_itself_is_refused(tmp_path: Path) -> None:
    assert "representations.ce.start_from" in refused(tmp_path, "representations.ce.start_from", "models/ce")


def test_a_bad_override_is_named_in_its_row(tmp_path: Path) -> None:
    message = refused(tmp_path, "representations.ce.plan", {"epochs": 0})
    assert "representations.ce.plan.epochs" in message
    assert "representations.ce.plan.epoch is not" in refused(tmp_path, "representations.ce.plan", {"epoch": 1})


def test_overrides_merge_key_by_key_and_named_choices_are_replaced() -> None:
    content = copy.deepcopy(CONTENT)
    steps = {"name": "step", "milestones": [0.8], "gamma": 0.01}
    content["representations"]["ce"]["plan"] = {"lr": "1e-3", "augmentation": {"cutout": 2}, "schedule": steps}
    params = Params.model_validate(content)
    plan, base = params.plan_of("ce"), params.plan
    assert plan.lr == 1e-3  # PyYAML reads 1e-3 as a string, and so does `-S`
    assert plan.schedule.name == "step"
    assert plan.augmentation == base.augmentation.model_copy(update={"cutout": 2})
    assert params.plan_of("gradual") == base


def test_what_adapts_to_validation_needs_validation_images(tmp_path: Path) -> None:
    message = refused(tmp_path, "data.validation.per_class", 0)
    assert "data.validation.per_class is 0" in message
    assert "methods.tau_norm.balancer.tau: 1.0" in message or "methods.glag.balancer.adaptive: false" in message


def test_equal_seeds_are_refused(tmp_path: Path) -> None:
    assert "seeds" in refused(tmp_path, "seeds", [0, 0])


def test_a_row_name_that_cannot_be_a_stage_is_refused(tmp_path: Path) -> None:
    assert "methods" in refused(tmp_path, "methods.My Method", CONTENT["methods"]["ce"])


@pytest.mark.parametrize(("text", "said"), [("seeds: [", "not valid YAML"), ("[]", "params")])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        load_params(tmp_path / "params.yaml")


def test_the_command_exits_with_2_and_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "longtail.params"]
    missing = subprocess.run([*command, str(tmp_path / "no.yaml")], capture_output=True, text=True)
    assert missing.returncode == 2 and "does not exist" in missing.stderr and "Traceback" not in missing.stderr
    good = subprocess.run([*command, str(ROOT / "params.yaml")], capture_output=True, text=True)
    assert good.returncode == 0 and "is valid" in good.stdout


def test_a_learner_takes_as_many_samplers_as_it_takes_batches(tmp_path: Path) -> None:
    said = refused(tmp_path, "representations.ce.samplers", ["instance_balanced", "class_balanced"])
    assert "representations.ce.samplers lists 2, but learner plain takes 1" in said


@pytest.mark.parametrize("sampler", ["balanced", {"name": "deferred", "beta": 0.9}, {"name": "later"}, 3])
def test_a_sampler_that_is_none_is_refused(sampler: Any, tmp_path: Path) -> None:
    said = refused(tmp_path, "representations.ce.samplers", [sampler])
    assert all(line.split("params.yaml: ")[-1].startswith("representations.ce.samplers.0") for line in said.split("\n"))
    assert "literal" not in said and "Deferred" not in said  # pydantic's words, not the user's


def test_a_deferred_sampler_is_a_row(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["representations"]["ce"]["samplers"] = [{"name": "deferred", "beta": 0.9999, "start": 0.8}]
    assert Params.model_validate(content).representations["ce"].samplers == (Deferred(beta=0.9999, start=0.8),)


def test_samplers_of_one_row_have_epochs_of_one_length(tmp_path: Path) -> None:
    row = copy.deepcopy(CONTENT["representations"]["ce"])
    row |= {"learner": {"name": "bbn"}, "network": {"backbone": "bbn_resnet20"}}
    row["samplers"] = ["instance_balanced", {"name": "class_aware", "epoch": "balanced"}]
    said = refused(tmp_path, "representations.ce", row)
    assert "representations.ce.samplers have epochs of different lengths (images, balanced)" in said
    assert "representations.ce.samplers.0.epoch" in refused(
        tmp_path, "representations.ce.samplers", [{"name": "class_aware", "epoch": "long"}]
    )


def test_published_numbers_are_fractions_of_known_metrics_and_rows(tmp_path: Path) -> None:
    assert "published.ce.overall" in refused(tmp_path, "published", {"ce": {"overall": 38.3}})
    assert "published.ce.accuracy" in refused(tmp_path, "published", {"ce": {"accuracy": 0.383}})
    assert "A row of published is 'cee'; choose one of " in refused(tmp_path, "published", {"cee": {"overall": 0.3}})


MARGINS = {"name": "ldam", "max_margin": 0.5, "scale": 30.0}


def with_loss(network: dict[str, Any]) -> dict[str, Any]:
    return {**CONTENT["representations"]["ce"], "loss": MARGINS, "network": network}


def test_margins_on_cosines_refuse_a_linear_classifier(tmp_path: Path) -> None:
    said = refused(tmp_path, "representations.ce", with_loss({}))
    assert "representations.ce.loss needs a cosine classifier" in said


def test_two_scales_of_one_cosine_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "representations.ce", with_loss({"classifier": "cosine", "scale": 16.0}))
    assert "multiplies the cosines by 30" in said and "scale 16" in said


def test_maps_of_a_cosine_classifier_are_refused(tmp_path: Path) -> None:
    row = {**CONTENT["representations"]["ce"], "network": {"classifier": "cosine", "scale": 16.0}}
    row["learner"] = {
        "name": "csa", "threshold": 0.8, "volume": 64, "start": 0.05, "emptied": "each_epoch", "bank": True,
        "mask": True, "masks_from": "uniform", "mixing": "random", "mixup": False,
    }  # fmt: skip
    row["samplers"] = ["instance_balanced", "class_aware"]
    assert "representations.ce.learner needs a linear classifier" in refused(tmp_path, "representations.ce", row)


@pytest.mark.parametrize(("key", "value"), [("backbone", "resnet20"), ("classifier", "cosine")])
def test_weights_of_another_network_are_refused(key: str, value: str, tmp_path: Path) -> None:
    row = {**CONTENT["representations"]["ce"], "start_from": "models/gradual", "network": {key: value}}
    said = refused(tmp_path, "representations.ce", row)
    assert f"representations.ce.start_from takes the weights of gradual, whose {key} is" in said


def test_a_learner_that_builds_on_a_trained_network_needs_one(tmp_path: Path) -> None:
    row = {**CONTENT["representations"]["ce"], "learner": {"name": "cam_bs", "threshold": 0.75}}
    said = refused(tmp_path, "representations.ce", row)
    assert "representations.ce.start_from is data/split, but learner cam_bs builds on a trained network" in said
