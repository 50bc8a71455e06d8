"""What `mlflow models serve` answers, asked by our client, is what `evaluate` recorded."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import Tensor

from clones import Clone
from longtail.client import Client, ClientError
from longtail.data.split_files import load_split
from longtail.evaluation import load_predictions
from longtail.prediction import Predictor, encode_png, gather

pytest_plugins = ["clone_fixtures"]
pytestmark = pytest.mark.services

IMAGES = 100
METHOD, OTHER = "glag", "graloss"
TOLERANCE = 1e-6  # of a probability: float32 through JSON, in batches of another size than evaluate's
READY_SECONDS = 120
# Argument: a run. In a process of its own, since connecting to MLflow changes the process's environment.
PROMOTE = """
import pathlib, sys
from longtail.tracking.registry import Registry
from longtail.tracking.server import connect
registry = Registry(connect(pathlib.Path.cwd()), "longtail", pathlib.Path.cwd())
registry.promote(registry.register(sys.argv[1], {}).number)
"""


class Registered:
    """The models that a clone's graph has logged, as versions of one registered model."""

    def __init__(self, clone: Clone) -> None:
        clone.run("python", "-m", "longtail.tracking", "sync", LONGTAIL_TRACKING="on", PYTHONPATH="src")
        self.clone, self.uri = clone, f"sqlite:///{clone.folder}/mlflow.db"
        client = MlflowClient(self.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        self.runs = {run.info.run_name: run.info.run_id for run in client.search_runs(experiments)}

    def promote(self, method: str) -> None:
        """Register the method's model and make it the champion."""
        run = self.runs[f"evaluate {method}"]
        self.clone.run("python", "-c", PROMOTE, run, MLFLOW_TRACKING_URI=self.uri, PYTHONPATH="src")

    @contextmanager
    def serve(self, log: Path) -> Iterator[Client]:
        """Serve the champion until the block ends; nothing of it is left running."""
        port = free_port()
        command = ["mlflow", "models", "serve", "-m", "models:/longtail@champion"]
        command += ["--env-manager", "local", "-p", str(port)]
        environment = self.clone.environment | {"MLFLOW_TRACKING_URI": self.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
        with log.open("w") as out:
            server = subprocess.Popen(
                command, cwd=log.parent, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", server, log)
            yield Client(f"http://127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    last = time.monotonic() + READY_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (OSError, urllib.error.URLError):
            assert server.poll() is None and time.monotonic() < last, log.read_text()
            time.sleep(0.2)


@dataclass(frozen=True)
class Digits:
    """Test images of every class, and what `evaluate` recorded of them for each method."""

    classes: tuple[str, ...]
    pixels: Tensor
    recorded: dict[str, Tensor]

    def encoded(self) -> list[bytes]:
        return [encode_png(image) for image in self.pixels]


@pytest.fixture(scope="module")
def registered(clone: Clone) -> Registered:
    registered = Registered(clone)
    registered.promote(METHOD)
    return registered


@pytest.fixture(scope="module")
def champion(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server of METHOD's model."""
    with registered.serve(tmp_path_factory.mktemp("served") / "serve.log") as client:
        yield client


@pytest.fixture(scope="module")
def digits(clone: Clone) -> Digits:
    split = load_split(clone.folder / "data" / "split")
    chosen = torch.linspace(0, len(split.test) - 1, IMAGES).long()
    assert isinstance(split.test.images, Tensor)
    assert set(split.test.labels[chosen].tolist()) == set(range(len(split.classes)))
    recorded = {}
    for method in (METHOD, OTHER):
        predictions = load_predictions(clone.folder / "evaluations" / method / "seed_0.safetensors")
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
    champion: Client, clone: Clone, digits: Digits, tmp_path: Path, size: tuple[int, int], file_format: str
) -> None:
    encoded = []
    for image in digits.pixels[::20]:
        file = io.BytesIO()
        Image.open(io.BytesIO(encode_png(image))).resize(size).convert("RGB").save(file, format=file_format)
        encoded.append(file.getvalue())
    check(champion, encoded, digits.classes, loaded(clone, tmp_path / "model").predict(encoded))


def loaded(clone: Clone, folder: Path) -> Predictor:
    """Load METHOD's model out of the stages' outputs, without MLflow."""
    gather(clone.folder / "models" / "gradual", clone.folder / "classifiers" / METHOD, 0, folder)
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
    command = [sys.executable, "-m", "longtail.client", "--url", champion.url, "--top", "1", "digit.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    best = digits.recorded[METHOD][0].max(0)
    assert (done.returncode, done.stdout) == (0, f"digit.png: {digits.classes[int(best[1])]} {float(best[0]):.3f}\n")


def test_a_server_started_after_the_alias_has_moved_serves_the_new_champion(
    champion: Client, registered: Registered, digits: Digits, tmp_path: Path
) -> None:
    registered.promote(OTHER)
    try:
        check(champion, digits.encoded(), digits.classes, digits.recorded[METHOD])
        with registered.serve(tmp_path / "serve.log") as restarted:
            check(restarted, digits.encoded(), digits.classes, digits.recorded[OTHER])
        with pytest.raises(ClientError, match="No model answers"):
            restarted.predict(digits.encoded())
    finally:
        registered.promote(METHOD)
