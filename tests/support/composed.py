"""What deploy/compose.yaml says, read without compose: so that the tests start the same programs in the same way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Service:
    """A service of compose.yaml, with the variables of env.example in it.

    Args:
        command: what runs in it; empty for what its image runs.
        environment: name -> value.
    """

    command: tuple[str, ...]
    environment: dict[str, str]


def example_variables() -> dict[str, str]:
    """Return the variables of env.example, as compose reads them."""
    lines = (line.strip() for line in (DEPLOY / "env.example").read_text().splitlines())
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return dict(pairs)


def compose_text() -> str:
    """Return compose.yaml as it is written."""
    return (DEPLOY / "compose.yaml").read_text()


def compose_document() -> Any:
    """Return compose.yaml, parsed, with the variables of env.example in place."""
    variables = example_variables()
    return yaml.safe_load(VARIABLE.sub(lambda found: variables[found[1]], compose_text()))


def service(name: str, moved: Mapping[str, str]) -> Service:
    """Return a service as it runs here instead of in a container.

    Args:
        moved: what stands in the file -> what stands for it here, such as postgres:5432 -> 127.0.0.1:41234.
    """
    document = compose_document()["services"][name]

    def here(text: object) -> str:
        result = str(text)
        for there, instead in moved.items():
            result = result.replace(there, instead)
        return result

    environment = {key: here(value) for key, value in document["environment"].items()}
    return Service(tuple(here(word) for word in document.get("command", ())), environment)
