"""Nights in which something is broken: one sentence, the champion untouched, and the next night goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_four_nights import decisions, example, registry_of

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after its first night, with a short plan."""
    nights, folder = example(), tmp_path_factory.mktemp("nights") / "longtail"
    nights.prepare(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["plan"] |= {"epochs": 2, "warmup": 0}
    params["retrain"]["gate"]["minimum_gain"] = -1.0  # two epochs are not to be judged
    params["retrain"]["gate"]["allowances"] = {"many": 1.0, "medium": 1.0, "few": 1.0, "classes": {}}
    params["retrain"]["gate"]["calibration"] = 1.0
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    nights.first_night(folder)
    assert "it is the first model" in night(folder, 0)
    return folder


def night(root: Path, code: int) -> str:
    """Run a night and return its last line."""
    finished = subprocess.run(
        [sys.executable, "-m", "pipelines.retrain"], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert finished.returncode == code, finished.stdout + finished.stderr
    lines = [line for line in (finished.stdout if code == 0 else finished.stderr).splitlines() if line]
    return next(line for line in reversed(lines) if " | " not in line)


def champion(root: Path) -> str:
    found = registry_of(root).champion()
    assert found is not None
    return found.number


def test_a_champion_that_is_damaged_ends_the_night_and_is_not_replaced(root: Path) -> None:
    registry = registry_of(root)
    version = registry.version("1")
    uri = registry.server.client.get_model_version_download_uri(registry.name, version.number)
    (weights,) = Path(uri.removeprefix("file://")).rglob("weights.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    example().third_night(root)
    said = night(root, 2)
    assert said.startswith("Version 1 of model digits cannot be loaded") and "registry promote VERSION" in said
    assert champion(root) == "1" and "longtail.decision" not in registry.version("2").tags

    weights.write_bytes(whole)
    assert "Passed" in night(root, 0)  # it was left undecided, so the next night goes on with it
    assert champion(root) == "2" and decisions(root) == {"1": "promoted", "2": "promoted"}


def test_a_night_that_died_before_the_promotion_is_finished_by_the_next(root: Path) -> None:
    registry = registry_of(root)
    registry.rollback()
    registry.server.client.set_model_version_tag(registry.name, "2", "longtail.decision", "passed")
    assert champion(root) == "1"
    assert "Passed" in night(root, 0)
    assert champion(root) == "2" and decisions(root)["2"] == "promoted"


def test_images_that_vanish_are_missed_before_training(root: Path) -> None:
    mine, elsewhere = root / "data" / "raw" / "mine", root / "elsewhere"
    shutil.move(mine, elsewhere)
    assert night(root, 2).startswith("data.path: no such folder")
    shutil.move(elsewhere, mine)
    shutil.move(mine / "train" / "digit_3", elsewhere)
    assert "digit_3" in night(root, 2)
    shutil.move(elsewhere, mine / "train" / "digit_3")
    assert champion(root) == "2"
    assert night(root, 0).startswith("Nothing changed since version 2")
