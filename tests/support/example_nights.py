"""examples/four_nights.py for tests, and what its clone's registry says."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from longtail.tracking.registered_model import Registry
from longtail.tracking.server import connect

ROOT = Path(__file__).parents[2]


def example() -> ModuleType:
    """Import the example."""
    spec = importlib.util.spec_from_file_location("four_nights", ROOT / "examples" / "four_nights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["four_nights"] = module
    spec.loader.exec_module(module)
    return module


def registry_of(root: Path) -> Registry:
    """Open the registry of a clone that has played a night."""
    return Registry(connect(root), "digits", root)


def decisions(root: Path) -> dict[str, str]:
    """Return the decision of each version."""
    return {version.number: version.tags["longtail.decision"] for version in registry_of(root).versions()}


def champion_of(root: Path) -> str:
    """Return the number of the version that serves."""
    champion = registry_of(root).champion()
    assert champion is not None
    return champion.number
