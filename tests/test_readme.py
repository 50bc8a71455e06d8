"""The README says what the pipeline wrote, and names only what exists."""

import re
from pathlib import Path

import pytest

from docs.update_readme import ROOT, with_leaderboard

README = (ROOT / "README.md").read_text()


def test_the_leaderboard_is_the_one_of_the_reports() -> None:
    committed = (ROOT / "reports" / "leaderboard.md").read_text()
    numbers = re.findall(r"\d+\.\d ± \d+\.\d", README)
    if (ROOT / "reports" / "plots").exists():
        pytest.skip("this working tree has run the pipeline itself: `make readme` brings its numbers here")
    assert numbers, "the README shows no results"
    assert with_leaderboard(README, committed) == README


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w/.]+)\)", README))))
def test_linked_files_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:src|benchmarks|losses|balancers)/[\w/.]+\.\w+)`", README)))
)
def test_named_files_exist(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "src" / "longtail" / path).exists() or "my_loss" in path


def test_named_make_targets_exist() -> None:
    makefile = Path(ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"run", "test", "ui"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
