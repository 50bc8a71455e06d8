"""The README says what the pipeline wrote, and names only what exists."""

import re
from pathlib import Path

import pytest
import yaml

from docs.methods import PARAMS, ROOT, Method, between, methods, sections, with_methods
from docs.update_readme import with_leaderboard, with_results
from longtail.balancers import Balancer
from longtail.learners import Learner
from longtail.losses import Loss
from longtail.spec import Spec
from unions import members

README = (ROOT / "README.md").read_text()


def test_the_leaderboard_is_the_one_of_the_reports() -> None:
    committed = (ROOT / "reports" / "leaderboard.md").read_text()
    numbers = re.findall(r"\d+\.\d ± \d+\.\d", README)
    if (ROOT / "reports" / "plots").exists():
        pytest.skip("this working tree has run the pipeline itself: `make readme` brings its numbers here")
    assert numbers, "the README shows no results"
    assert with_leaderboard(README, committed) == README


def test_the_papers_rows_are_those_of_the_results() -> None:
    assert with_results(README) == README, "write them with: make readme"


def test_the_table_of_methods_is_that_of_the_docstrings() -> None:
    assert with_methods(README) == README, "write it with: python -m docs.methods"


def test_every_member_of_every_union_has_a_line() -> None:
    found = {method.path for method in methods()}
    for union in (Loss, Learner, Balancer):
        for member in members(union):
            path = "src/" + member.__module__.replace(".", "/") + ".py"
            assert path in found


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.title)
def test_a_method_says_where_it_is_from_and_its_example_exists(method: Method) -> None:
    assert method.source
    assert (ROOT / method.path).exists()
    if method.example:
        row, path = method.example
        content = yaml.safe_load((ROOT / path).read_text())
        assert path in PARAMS
        assert row in content["representations"] or row in content["methods"]


def test_sections_of_a_docstring() -> None:
    """A section ends where its indentation does."""

    class Example(Spec):
        """Something: at length.

            Source    = no section but a formula, which stands further in

        Source    A, arXiv:1;
                  B
        Differs   nothing

        Args:
            Limits    are none
        """

    assert sections(Example.__doc__ or "") == {"Source": "A, arXiv:1; B", "Differs": "nothing"}


def test_a_readme_without_the_marks_is_no_place_to_write_to() -> None:
    assert between("a <1> b <2> c", "<1>", "<2>", "new") == "a <1>\nnew\n<2> c"
    with pytest.raises(AssertionError, match="0 blocks"):
        between("a", "<1>", "<2>", "new")


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
