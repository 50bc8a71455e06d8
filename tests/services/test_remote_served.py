"""What `mlflow models serve` answers, asked by our client, is what `evaluate` recorded."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import Tensor

from clones import Clone
from longtail.evaluation import load_predictions
from longtail.images.split_files import load_split
from longtail.serving.client import Client, ClientError
from longtail.serving.predictor import Predictor, encode_png, gather
from remote_project import METHOD, OTHER
from running import Server, answers
from servers import MLflow

pytest_plugins = ["remote_fixtures"]
pytestmark = pytest.mark.services

IMAGES = 100
TOLERANCE = 1e-6  # of a probability: float32 through JSON, in batches of another size than evaluate's
# Argument: a run. In a process of its own, since connecting to MLflow changes the process's environment.
PROMOTE = """
import pathlib, sys
from longtail.tracking.registered_model import Registry
from longtail.tracking.server import connect
registry = Registry(connect(pathlib.Path.cwd()), "longtail", pathlib.Path.cwd())
registry.promote(registry.register(sys.argv[1], {}).number)
"""


class Served(Server):
    """`mlflow models serve` of the champion, on a machine that knows MLflow's server and S3."""

    name = "served"

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.variables = variables

    def command(self) -> list[str]:
        """Run the command of docs/serving.md."""
        words = ["models", "serve", "-m", "models:/longtail@champion", "--env-manager", "local", "-p", str(self.port)]
        return [str(Path(sys.executable).with_name("mlflow")), *words]

    def environment(self) -> Mapping[str, str]:
        """Say where the server and S3's keys are."""
        return {**self.variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def is_ready(self) -> bool:
        """Ask whether the model is loaded."""
        return answers(f"{self.address}/ping")


@pytest.fixture(scope="module")
def promote(remote: Clone, mlflow_server: MLflow) -> Callable[[str], None]:
    """What registers the model of a method and makes it the champion."""
    client = MlflowClient(mlflow_server.address)
    experiment = client.get_experiment_by_name("longtail")
    assert experiment is not None
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}

    def promote(method: str) -> None:
        remote.run("python", "-c", PROMOTE, runs[f"evaluate {method}"], PYTHONPATH="src")

    return promote


@dataclass(frozen=True)
class Digits:
    """Test images of every class, and what `evaluate` recorded of them for each method."""

    classes: tuple[str, ...]
    pixels: Tensor
    recorded: dict[str, Tensor]

    def encoded(self) -> list[bytes]:
        return [encode_png(image) for image in self.pixels]


@pytest.fixture(scope="module")
def champion(
    promote: Callable[[str], None], remote_variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client of a server of METHOD's model."""
    promote(METHOD)
    with Served(tmp_path_factory.mktemp("served"), remote_variables) as server:
        yield Client(server.address)


@pytest.fixture(scope="module")
def digits(remote: Clone) -> Digits:
    split = load_split(remote.folder / "data" / "split")
    chosen = torch.linspace(0, len(split.test) - 1, IMAGES).long()
    assert isinstance(split.test.images, Tensor)
    assert set(split.test.labels[chosen].tolist()) == set(range(len(split.classes)))
    recorded = {}
    for method in (METHOD, OTHER):
        predictions = load_predictions(remote.folder / "evaluations" / method / "seed_0.safetensors")
        assert tuple(predictions.ids) == tuple(split.test.ids)
        recorded[method] = predictions.probabilities[chosen]
    return Digits(split.classes, split.test.images[chosen], recorded)


def check(client: Client, encoded: list[bytes], classes: tuple[str, ...], expected: Tensor) -> None:
    """Compare class and probabilities of every image."""
    answers = client.predict(encoded)
    assert all(tuple(answer.probabilities) == classes for answer in answers)
    got = torch.tensor([list(answer.probabilities.values()) for answer in answers], dtype=torch.float64)
    torch.testing.assert_close(got, expected.double(), atol=TOLERANCE, rtol=0)
    assert [answer.class_name for answer in answers] == [classes[k] for k in expected.argmax(1).tolist()]


def test_it_answers_what_evaluate_recorded(champion: Client, digits: Digits) -> None:
    expected = digits.recorded[METHOD]
    assert (expected - digits.recorded[OTHER]).abs().max() > 1e-3, "the other method would pass too"
    check(champion, digits.encoded(), digits.classes, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_the_same_pixels_in_another_mode_are_the_same_image(champion: Client, digits: Digits, mode: str) -> None:
    encoded = [as_mode(image.squeeze(0).numpy(), mode) for image in digits.pixels]
    check(champion, encoded, digits.classes, digits.recorded[METHOD])


def as_mode(pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]", mode: str) -> bytes:
    wide = mode == "I;16"
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if wide else Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, format="PNG")
    assert Image.open(io.BytesIO(file.getvalue())).mode == mode
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (200, 31), (640, 480)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_other_sizes_and_formats_are_seen_as_the_model_sees_them(
    champion: Client, remote: Clone, digits: Digits, tmp_path: Path, size: tuple[int, int], file_format: str
) -> None:
    encoded = []
    for image in digits.pixels[::20]:
        file = io.BytesIO()
        Image.open(io.BytesIO(encode_png(image))).resize(size).convert("RGB").save(file, format=file_format)
        encoded.append(file.getvalue())
    check(champion, encoded, digits.classes, loaded(remote, tmp_path / "model").predict(encoded))


def loaded(remote: Clone, folder: Path) -> Predictor:
    """Load METHOD's model out of the stages' outputs, without MLflow."""
    gather(remote.folder / "models" / "gradual", remote.folder / "classifiers" / METHOD, 0, folder)
    return Predictor.load(folder)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"", "of no known image format"),
        (b"not an image", "of no known image format"),
        ("half", "truncated"),
    ],
)
def test_a_broken_image_is_named_and_the_server_lives_on(
    champion: Client, digits: Digits, broken: bytes | str, said: str
) -> None:
    good = digits.encoded()[:2]
    bad = good[0][: len(good[0]) // 2] if isinstance(broken, str) else broken
    with pytest.raises(ClientError, match=rf"refused: image 1 \(of 3, counted from 0\) cannot be read: .*{said}"):
        champion.predict([good[0], bad, good[1]])
    check(champion, good, digits.classes, digits.recorded[METHOD][:2])


def test_the_command_prints_the_recorded_class(champion: Client, digits: Digits, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(digits.encoded()[0])
    command = [sys.executable, "-m", "longtail.serving.client", "--url", champion.url, "--top", "1", "digit.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    best = digits.recorded[METHOD][0].max(0)
    assert (done.returncode, done.stdout) == (0, f"digit.png: {digits.classes[int(best[1])]} {float(best[0]):.3f}\n")


def test_a_server_started_after_the_alias_has_moved_serves_the_new_champion(
    champion: Client,
    promote: Callable[[str], None],
    remote_variables: dict[str, str],
    digits: Digits,
    tmp_path: Path,
) -> None:
    promote(OTHER)
    try:
        check(champion, digits.encoded(), digits.classes, digits.recorded[METHOD])
        with Served(tmp_path, remote_variables) as restarted:
            client = Client(restarted.address)
            check(client, digits.encoded(), digits.classes, digits.recorded[OTHER])
        with pytest.raises(ClientError, match="No model answers"):
            client.predict(digits.encoded())
    finally:
        promote(METHOD)
