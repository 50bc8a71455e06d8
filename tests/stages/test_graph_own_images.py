"""Own images, by the README's section: a folder per class, any size and mode, one class with a single image."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from clones import ROOT, Clone, shrink

COUNTS = {"blue": 60, "green": 25, "red": 8, "white": 1}
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30), "white": (240, 240, 240)}
MODES = ("RGB", "RGBA", "P", "CMYK")


def photograph(folder: Path, name: str, number: int) -> None:
    """Write a noisy picture of a class's colour; size, mode and format vary with its number."""
    draws = np.random.RandomState(1000 * sorted(COUNTS).index(name) + number)
    width, height = 20 + number % 17, 16 + number % 23
    pixels = np.asarray(COLOURS[name]) + draws.randint(-15, 15, (height, width, 3))
    mode = MODES[number % len(MODES)]
    suffix = "jpg" if mode == "CMYK" else "png"
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)
    (folder / name).mkdir(parents=True, exist_ok=True)
    image.save(folder / name / f"{number:03d}.{suffix}")


def sides(clone: Clone) -> dict[str, str]:
    with (clone.folder / "data" / "assignment.csv").open() as file:
        return {row["sha256"]: row["side"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a params.yaml made from benchmarks/own_images.yaml, whose graph has run once."""
    clone = Clone(tmp_path_factory.mktemp("own"))
    params = yaml.safe_load((ROOT / "benchmarks" / "own_images.yaml").read_text())
    shrink(params)
    params["data"]["image_size"] = 16
    params["plan"] |= {"epochs": 12, "batch_size": 8}  # enough steps for BatchNorm's statistics, on any processor
    params["methods"]["glag"]["balancer"]["head_classes"]["above"] = 30
    clone.write_params(params)
    clone.commit()
    for name, count in COUNTS.items():
        for number in range(count):
            photograph(clone.folder / "data" / "raw" / "mine", name, number)
    clone.run("dvc", "add", "data/raw/mine")
    clone.run("dvc", "repro")
    clone.commit()
    return clone


def test_a_class_of_one_image_trains_and_is_not_reported(own: Clone) -> None:
    split = json.loads((own.folder / "data" / "split" / "classes.json").read_text())
    assert split["classes"] == sorted(COUNTS)
    assert [split["class_counts"][side][-1] for side in ("train", "val", "test")] == [1, 0, 0]  # of white, the last
    document = json.loads((own.folder / "evaluations" / "glag" / "metrics.json").read_text())
    white = sorted(COUNTS).index("white")
    assert [value is None for value in document["per_class"]] == [k == white for k in range(len(COUNTS))]
    assert document["summary"]["overall"]["mean"] > 0.3
    assert sorted(sides(own).values()).count("test") == 12 + 5 + 1


def test_dvc_sees_the_record_of_sides_as_up_to_date(own: Clone) -> None:
    assert json.loads(own.run("dvc", "status", "--json")) == {}


def test_images_left_on_disk_and_decoded_by_workers_train_the_same_weights(own: Clone) -> None:
    params, weights = own.params(), own.folder / "models" / "gradual" / "seed_0" / "weights.safetensors"
    in_memory = weights.read_bytes()
    own.write_params(params | {"data": params["data"] | {"memory_gigabytes": 0}})
    try:
        own.run("python", "-m", "longtail.stages.split", PYTHONPATH="src")
        assert sorted(path.suffix for path in (own.folder / "data" / "split").iterdir()) == [".csv"] * 3 + [".json"]
        own.run("python", "-m", "longtail.stages.train", "gradual", PYTHONPATH="src", LONGTAIL_WORKERS="2")
        assert weights.read_bytes() == in_memory
    finally:
        own.write_params(params)
        own.run("dvc", "checkout", "--force", "split", "train@gradual")


def test_the_next_days_images_get_a_side_and_no_old_one_moves(own: Clone) -> None:
    before = sides(own)
    for name in ("blue", "red"):
        for number in range(100, 105):
            photograph(own.folder / "data" / "raw" / "mine", name, number)
    own.run("dvc", "add", "data/raw/mine")
    own.run("dvc", "repro", "split")
    after = sides(own)
    assert len(after) == len(before) + 10
    assert {sha256: after[sha256] for sha256 in before} == before
    assert json.loads(own.run("dvc", "status", "--json", "split")) == {}
    assert "Running stage" not in own.run("dvc", "repro", "split")


def test_a_truncated_image_is_named_and_nothing_is_recorded(own: Clone) -> None:
    file = own.folder / "data" / "raw" / "mine" / "blue" / "000.png"
    whole, recorded = file.read_bytes(), sides(own)
    file.unlink()  # first: DVC's files may be links into its cache
    file.write_bytes(whole[: len(whole) // 2])
    before = (own.folder / "data" / "split" / "classes.json").read_bytes()
    try:
        printed = own.run("python", "-m", "longtail.stages.split", code=2, PYTHONPATH="src")
    finally:
        file.write_bytes(whole)
    assert "000.png" in printed and "Traceback" not in printed
    assert sides(own) == recorded
    assert (own.folder / "data" / "split" / "classes.json").read_bytes() == before
