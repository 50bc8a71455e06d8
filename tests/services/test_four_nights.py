"""Shown on real images: promoted, nothing to do, promoted, refused, rolled back; see examples/four_nights.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from longtail.tracking.registry import Registry
from longtail.tracking.server import connect

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]


def example() -> ModuleType:
    """Import examples/four_nights.py."""
    spec = importlib.util.spec_from_file_location("four_nights", ROOT / "examples" / "four_nights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["four_nights"] = module
    spec.loader.exec_module(module)
    return module


def registry_of(root: Path) -> Registry:
    return Registry(connect(root), "digits", root)


def answers(root: Path) -> Tensor:
    """Ask the champion about every test image."""
    registry = registry_of(root)
    champion = registry.champion()
    assert champion is not None
    files = sorted((root / "data" / "raw" / "mine" / "test").rglob("*.png"))
    return registry.predictor(champion).predict([file.read_bytes() for file in files])


def decisions(root: Path) -> dict[str, str]:
    return {version.number: version.tags["longtail.decision"] for version in registry_of(root).versions()}


def test_four_nights_and_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGTAIL_HOME", "LONGTAIL_TRACKING", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    nights, root = example(), tmp_path / "longtail"
    nights.prepare(root)
    passed = nights.nights(root)

    assert next(passed) == "night 1"
    assert decisions(root) == {"1": "promoted"}
    first = answers(root)

    assert next(passed) == "night 2"
    assert decisions(root) == {"1": "promoted"}

    assert next(passed) == "night 3"
    assert decisions(root) == {"1": "promoted", "2": "promoted"}
    assert (third := answers(root)).shape == first.shape and not torch.equal(third, first)

    assert next(passed) == "night 4"
    assert decisions(root) == {"1": "promoted", "2": "promoted", "3": "refused"}
    assert torch.equal(answers(root), third)
    refused = registry_of(root).versions()[0]
    assert "few" in refused.tags["longtail.reason"] and "interval" in refused.tags["longtail.reason"]

    assert next(passed) == "rollback"
    assert torch.equal(answers(root), first)
