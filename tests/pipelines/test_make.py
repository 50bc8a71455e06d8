"""The Makefile says what it can do, and the environment it makes is the one that is pinned."""

import re
import subprocess
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from small_project import REPOSITORY


def make(*arguments: str) -> str:
    command = ["make", "-C", str(REPOSITORY), "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def lines_of(file: str, pattern: str) -> list[str]:
    return re.findall(pattern, (REPOSITORY / file).read_text(), re.MULTILINE)


def test_make_alone_names_every_target() -> None:
    (phony,) = lines_of("Makefile", r"^\.PHONY: (.*)$")
    assert set(phony.split()) <= set(re.findall(r"^  make ([\w-]+) +\S", make(), re.MULTILINE))


@pytest.mark.parametrize("setting", lines_of(".env", r"^(\w+)="))
def test_make_exports_what_keeps_tools_quiet(setting: str) -> None:
    assert setting in lines_of("Makefile", r"^export (.*)$")[0].split()


def test_every_package_that_an_installation_draws_in_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["workflow"], *extras["services"], *extras["dev"]]
    waiting = [(Requirement(text), "") for text in asked]
    pins = {canonicalize_name(name): number for name, number in map(split_pin, lines_of("constraints.txt", "^.+$"))}
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and (text := str(requirement)) not in seen:
            seen.add(text)
            assert pins.get(canonicalize_name(requirement.name), "0") in requirement.specifier, text
            own = [Requirement(line) for line in requires(requirement.name) or ()]
            waiting += [(each, extra) for each in own for extra in ("", *requirement.extras)]


def split_pin(line: str) -> tuple[str, str]:
    name, number = line.split("==")
    return name, number
