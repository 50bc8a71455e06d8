from pathlib import Path

import pytest
import yaml

from pipelines.failures import UserError
from pipelines.variants import Variant, read_variant

TEXT = """# Some comment
seeds: [0]
data: {name: cifar100, imbalance_factor: 100}
plan: {lr: 0.1}
representations:
  ce: &ce {plan: &plan {}, samplers: [instance_balanced]}
  focal: {<<: *ce, loss: {name: focal}}
methods:
  crt: {balancer: {name: crt, plan: &crt {lr: 0.1}}}
  lws: {balancer: {name: lws, plan: *crt}}
published: {crt: {overall: 0.4}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "table.yaml").write_text(TEXT)
    return tmp_path / "table.yaml"


def refused(file: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        read_variant(file, words)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_without_changes_a_variant_is_the_file_itself(file: Path) -> None:
    assert read_variant(file, []) == Variant(file, "table", TEXT, {})


def test_one_value_changes_and_nothing_else(file: Path) -> None:
    before = yaml.safe_load(TEXT)
    after = yaml.safe_load(read_variant(file, ["data.imbalance_factor=50"]).text)
    assert after.pop("data") == {"name": "cifar100", "imbalance_factor": 50}
    assert before.pop("data") and after.pop("published") == {} and before.pop("published")
    assert after == before


def test_a_change_stays_in_its_row_where_rows_share_an_anchor(file: Path) -> None:
    words = ["methods.crt.balancer.plan.lr=0.2", "representations.focal.plan.epochs=3"]
    after = yaml.safe_load(read_variant(file, words).text)
    assert after["methods"]["crt"]["balancer"]["plan"] == {"lr": 0.2}
    assert after["methods"]["lws"]["balancer"]["plan"] == {"lr": 0.1}
    assert after["representations"]["focal"]["plan"] == {"epochs": 3}
    assert after["representations"]["ce"]["plan"] == {}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["data.imbalance_factor=50"], "table-imbalance_factor=50"),
        (["seeds=[0, 1, 2]"], "table-seeds=0,1,2"),
        (["data.name=cifar10"], "table-data.name=cifar10"),
        (["plan.lr=0.2"], "table-plan.lr=0.2"),
        (["methods.crt.balancer.plan.lr=0.2"], "table-crt.balancer.plan.lr=0.2"),
        (["seeds=[1]", "data.imbalance_factor=50"], "table-imbalance_factor=50-seeds=1"),
        (["data.imbalance_factor=50", "seeds=[1]"], "table-imbalance_factor=50-seeds=1"),
        (["data.path=../raw/x y"], "table-path=.._raw_xy"),
        (["plan.schedule={name: cosine}"], "table-schedule=name_cosine"),
    ],
)
def test_the_name_says_the_change(words: list[str], name: str, file: Path) -> None:
    assert read_variant(file, words).name == name


def test_two_keys_that_end_alike_have_two_names(file: Path) -> None:
    keys = ["plan.lr", "methods.crt.balancer.plan.lr", "methods.lws.balancer.plan.lr"]
    assert len({read_variant(file, [f"{key}=1"]).name for key in keys}) == 3


def test_a_long_name_still_is_one_of_its_own(file: Path) -> None:
    names = {read_variant(file, [f"data.path={'x' * 300}{end}"]).name for end in "ab"}
    assert len(names) == 2 and all(len(name) < 200 for name in names)


def test_published_numbers_hold_for_other_seeds_alone(file: Path) -> None:
    assert yaml.safe_load(read_variant(file, ["seeds=[7]"]).text)["published"] == {"crt": {"overall": 0.4}}
    assert yaml.safe_load(read_variant(file, ["seeds=[7]", "plan.lr=0.2"]).text)["published"] == {}


def test_published_numbers_under_other_settings_stand_beside_the_file(file: Path) -> None:
    tables = file.parent / "published" / file.name
    tables.parent.mkdir()
    tables.write_text("- {set: {data.name: cifar10, plan.lr: 0.2}, published: {lws: {overall: 0.5}}}")

    def published(*words: str) -> object:
        return yaml.safe_load(read_variant(file, words).text)["published"]

    assert published("plan.lr=0.2", "seeds=[7]", "data.name=cifar10") == {"lws": {"overall": 0.5}}
    assert published("plan.lr=0.2") == {}
    assert published("plan.lr=0.2", "data.name=cifar10", "plan.epochs=3") == {}
    tables.write_text("- {published: {lws: {overall: 0.5}}}")
    assert "is no list of {set: …, published: …}" in refused(file, "plan.lr=0.2")


def test_values_are_yaml(file: Path) -> None:
    words = ["seeds=[1, 2]", "plan.schedule={name: cosine}", "data.seed=null", "data.download=true", "data.path="]
    content = yaml.safe_load(read_variant(file, words).text)
    assert content["seeds"] == [1, 2]
    assert content["plan"]["schedule"] == {"name": "cosine"}
    assert content["data"]["seed"] is None and content["data"]["path"] is None and content["data"]["download"] is True


def test_what_is_no_change_is_refused(file: Path) -> None:
    assert "'50'; write KEY=VALUE" in refused(file, "50")
    assert "'.a=1'; write KEY=VALUE" in refused(file, ".a=1")
    assert "plan.lr twice" in refused(file, "plan.lr=1", "plan.lr=2")
    assert "seeds has no keys" in refused(file, "seeds.0=1")
    assert "plan.lr the value '[1'" in refused(file, "plan.lr=[1")


def test_a_file_without_keys_is_refused(file: Path) -> None:
    assert "is not a file" in refused(file.with_name("none.yaml"))
    file.write_text("- 1")
    assert "holds no keys" in refused(file, "plan.lr=1")
    file.write_text("a: [")
    assert "not valid YAML" in refused(file, "plan.lr=1")
