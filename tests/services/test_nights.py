"""Four nights on real images and a rollback (examples/four_nights.py), their pages, and nights that go wrong."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from example_nights import champion_of, decisions, example, registry_of
from servers import LocalMLflow, LocalPrefect

if TYPE_CHECKING:  # not installed everywhere
    from playwright.sync_api import Page

pytest_plugins = ["page_fixtures"]
pytestmark = pytest.mark.services

FOREIGN = ("LONGTAIL_HOME", "LONGTAIL_TRACKING", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class Seen:
    """What holds after a night: the decision of each version, and the champion's answers, (N, 10)."""

    decisions: dict[str, str]
    answers: Tensor


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrefect]:
    """A Prefect server that all nights report to."""
    with LocalPrefect(tmp_path_factory.mktemp("prefect")) as server, pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("PREFECT_API_URL", f"{server.address}/api")
        yield server


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clone is that `seen` makes."""
    return tmp_path_factory.mktemp("nights") / "longtail"


@pytest.fixture(scope="module")
def seen(root: Path, prefect: LocalPrefect) -> dict[str, Seen]:
    """Play the example, and look at the clone after each night."""
    example().prepare(root)
    return {night: Seen(decisions(root), answers(root)) for night in example().nights(root)}


def answers(root: Path) -> Tensor:
    """Ask the champion about every test image."""
    registry = registry_of(root)
    files = sorted((root / "data" / "raw" / "mine" / "test").rglob("*.png"))
    return registry.predictor(registry.version(champion_of(root))).predict([file.read_bytes() for file in files])


def test_two_nights_promote_one_finds_nothing_new_and_one_refuses(seen: dict[str, Seen]) -> None:
    assert {night: after.decisions for night, after in seen.items()} == {
        "night 1": {"1": "promoted"},
        "night 2": {"1": "promoted"},
        "night 3": {"1": "promoted", "2": "promoted"},
        "night 4": {"1": "promoted", "2": "promoted", "3": "refused"},
        "rollback": {"1": "promoted", "2": "promoted", "3": "refused"},
    }


def test_a_refused_model_serves_nobody_and_a_rollback_gives_the_first_answers(seen: dict[str, Seen]) -> None:
    first, third = seen["night 1"].answers, seen["night 3"].answers
    assert first.shape == third.shape and not torch.equal(first, third)
    assert torch.equal(seen["night 2"].answers, first)
    assert torch.equal(seen["night 4"].answers, third)
    assert torch.equal(seen["rollback"].answers, first)


def reason_for_refusal(root: Path) -> str:
    return registry_of(root).version("3").tags["longtail.reason"]


@pytest.mark.usefixtures("seen")
def test_the_refusal_names_the_group_and_its_interval(root: Path) -> None:
    assert re.search(
        r"few-shot accuracy fell by [\d.]+ points \(90 % interval -[\d.]+ to -[\d.]+\)", reason_for_refusal(root)
    )


@pytest.mark.usefixtures("seen")
def test_mlflow_shows_versions_aliases_and_reasons(root: Path, page: "Page") -> None:
    from playwright.sync_api import expect

    with LocalMLflow(root) as server:
        page.goto(f"{server.address}/#/models/digits")
        for number in ("1", "2", "3"):
            row = page.get_by_role("row").filter(has_text=f"Version {number}")
            expect(row).to_contain_text(decisions(root)[number])
            for alias in registry_of(root).version(number).aliases:
                expect(row).to_contain_text(alias)
        page.goto(f"{server.address}/#/models/digits/versions/3")
        expect(page.get_by_text(reason_for_refusal(root)).first).to_be_visible()


@pytest.mark.usefixtures("seen")
def test_prefect_shows_how_each_night_ended_and_why(root: Path, prefect: LocalPrefect, page: "Page") -> None:
    from playwright.sync_api import expect

    page.goto(f"{prefect.address}/v2/runs")
    for state in ("Promoted", "Nothing changed", "Refused"):
        expect(page.get_by_text(state, exact=True).first).to_be_visible()
    page.goto(f"{prefect.address}/v2/artifacts/key/retraining")
    expect(page.get_by_text(reason_for_refusal(root)).first).to_be_visible()
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()  # the newest report
    expect(page.get_by_role("heading", name="digits version 3: refused")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="few-shot accuracy")).to_contain_text("failed")


@pytest.fixture(scope="module")
def mended(root: Path, seen: dict[str, Seen]) -> Path:
    """The clone after one more night, from which the wrong images are gone: version 2 serves again."""
    wrong = example().WRONG
    for digit in example().RARE:
        for number in range(wrong.start, wrong.stop):
            (file,) = (root / "data" / "raw" / "mine" / "train").glob(f"*/{number + 1000 * digit:03d}.png")
            file.unlink()
    assert "Passed" in night(root, 0)
    assert champion_of(root) == "2" and len(registry_of(root).versions()) == len(seen["rollback"].decisions)
    return root


def night(root: Path, code: int) -> str:
    """Run a night and return its last line."""
    finished = subprocess.run(
        [sys.executable, "-m", "pipelines.retrain"], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert finished.returncode == code, finished.stdout + finished.stderr
    lines = [line for line in (finished.stdout if code == 0 else finished.stderr).splitlines() if line]
    return next(line for line in reversed(lines) if " | " not in line)


def test_a_champion_that_is_damaged_ends_the_night_before_training(mended: Path) -> None:
    registry = registry_of(mended)
    uri = registry.server.client.get_model_version_download_uri(registry.name, "2")
    (weights,) = Path(uri.removeprefix("file://")).rglob("weights.safetensors")
    news = mended / "data" / "raw" / "mine" / "train" / "digit_5" / "news.png"
    whole, versions = weights.read_bytes(), len(registry.versions())
    weights.write_bytes(whole[:1000])
    shutil.copy(mended / "data" / "raw" / "mine" / "train" / "digit_5" / "5044.png", news)
    news.write_bytes(news.read_bytes() + b"\0")  # other bytes, the same digit
    try:
        said = night(mended, 2)
    finally:
        weights.write_bytes(whole)
        news.unlink()
    assert said.startswith("Version 2 of model digits cannot be loaded") and "registry promote VERSION" in said
    assert champion_of(mended) == "2" and len(registry.versions()) == versions
    assert night(mended, 0).startswith("Nothing changed since version 2")


def test_a_night_that_died_before_the_promotion_is_finished_by_the_next(mended: Path) -> None:
    registry = registry_of(mended)
    registry.rollback()
    registry.server.client.set_model_version_tag(registry.name, "2", "longtail.decision", "passed")
    assert champion_of(mended) == "1"
    assert "Passed" in night(mended, 0)
    assert champion_of(mended) == "2" and decisions(mended)["2"] == "promoted"


def test_a_class_that_vanishes_is_missed_before_training(mended: Path) -> None:
    digit, elsewhere = mended / "data" / "raw" / "mine" / "train" / "digit_3", mended / "elsewhere"
    shutil.move(digit, elsewhere)
    try:
        assert "digit_3" in night(mended, 2)
    finally:
        shutil.move(elsewhere, digit)
    assert champion_of(mended) == "2"
