"""The large presets from split to evaluation, on images and lists made here in the published format.

Class counts have the published shape, scaled down, and so do the images; of the representations, one of each kind is
trained, for a few steps. Everything else is what the files say.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from longtail.data.profiles import exponential, pareto
from longtail.stages import evaluate, extract, finetune, split, train
from longtail.stages.job import run_stage

FOLDER = Path(__file__).parents[2] / "benchmarks"
CLASSES = 6
SHAPES = {
    "imagenet": pareto(12, CLASSES, 6, 7.459),
    "places365": pareto(12, CLASSES, 12, 1.873),
    "inaturalist18": exponential(12, CLASSES, 12),
}
METHODS = {
    "imagenet_lt": ["ncm", "crt", "tau_norm", "lws", "ldam_drs_rsg"],
    "imagenet_lt_resnet10": ["focal", "csa", "glag", "ofa"],
    "places_lt": ["ldam_drs_rsg"],
    "inaturalist18": ["ldam_drw_rsg", "glag"],
}
SHORT = {
    "epochs": 2,
    "batch_size": 8,
    "lr": 0.001,
    "warmup": 0,
    "validate_every": 1,
    "above": 8,
    "iterations": 4,
    "start": 0.5,
}
STAGES = {
    "train": ("models/{row}", train.train),
    "extract": ("features/{row}", extract.extract_row),
    "finetune": ("classifiers/{row}", finetune.finetune),
    "evaluate": ("evaluations/{row}", evaluate.evaluate_method),
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, without tracking and with checkpoints of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_TRACKING", "off")
    monkeypatch.setenv("LONGTAIL_HOME", str(tmp_path))
    monkeypatch.setenv("LONGTAIL_WORKERS", "0")
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", METHODS)
def test_a_large_preset_runs_on_its_lists(name: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = shortened(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    keep_only(params, METHODS[name])
    counts = SHAPES[Path(params["data"]["path"]).name]
    write_lists(Path(params["data"]["path"]), params["data"], counts)
    Path("params.yaml").write_text(yaml.safe_dump(params))

    run(monkeypatch, "split", "", "data/split", split.split)
    document = json.loads(Path("data/split/classes.json").read_text())["class_counts"]
    assert [sum(sides) for sides in zip(document["train"], document["val"], strict=True)] == [
        count + (2 if params["data"]["val"] else 0) for count in counts
    ]
    for stage, (output, work) in STAGES.items():
        for row in params["representations" if stage in ("train", "extract") else "methods"]:
            run(monkeypatch, stage, row, output, work)
    for method in params["methods"]:
        metrics = json.loads(Path(f"evaluations/{method}/metrics.json").read_text())
        assert 0 <= metrics["summary"]["overall"]["mean"] <= 1
        assert len(metrics["per_class"]) == CLASSES


def run(monkeypatch: pytest.MonkeyPatch, stage: str, row: str, output: str, work: Any) -> None:
    monkeypatch.setattr(sys, "argv", list(filter(None, [stage, row])))
    run_stage(stage, output, work)


def shortened(node: Any) -> Any:
    """Make every plan a few steps, and change what depends on there being many images."""
    if isinstance(node, list):
        return [shortened(value) for value in node]
    if not isinstance(node, dict):
        return node
    short = {key: SHORT.get(key, shortened(value)) for key, value in node.items()}
    return short | {key: shortened(value) for key, value in node.items() if isinstance(value, dict)}


def keep_only(params: dict[str, Any], methods: list[str]) -> None:
    params["methods"] = {name: params["methods"][name] for name in methods}
    used = {method["representation"] for method in params["methods"].values()}
    params["representations"] = {name: params["representations"][name] for name in sorted(used)}
    params["data"] |= {"image_size": 64, "validation": {**params["data"]["validation"], "per_class": 2}}
    params["extract"]["views"], params["network"]["weights"], params["published"] = 2, None, {}
    params["plan"] |= {"precision": "float32", "compile": "off"}


def write_lists(root: Path, data: Mapping[str, Any], counts: list[int]) -> None:
    """Write images of different sizes and the lists that name them."""
    sides = {"train": counts, "val": [2] * CLASSES, "test": [2] * CLASSES}
    draws = np.random.default_rng(0)
    for side, sizes in sides.items():
        lines = []
        for label, count in enumerate(sizes):
            folder = root / side / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (*draws.integers(70, 100, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
                lines.append(f"{(folder / str(number)).relative_to(root)}.JPEG {label}")
        if data[side]:
            (root / data[side]).write_text("\n".join(lines) + "\n")
