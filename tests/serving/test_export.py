"""`python -m longtail.serving.export` with a folder; test_export_of_registered.py names models by their alias."""

import json
import sys
from pathlib import Path

import pytest
import torch

import tiny
from longtail.models import NetworkSpec
from longtail.models.saved import NetworkDescription
from longtail.serving import export as command
from longtail.serving.export import load
from longtail.serving.exported_program import TOLERANCE
from longtail.serving.predictor import Predictor, encode_png
from longtail.spec import InputError

FILES = ("network.json", "weights.safetensors", "classifier.safetensors")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model, and an image, in the working folder."""
    monkeypatch.chdir(tmp_path)
    spec = NetworkSpec(backbone="digits_cnn", classifier="linear", scale=1, weights=None)
    description = NetworkDescription.of(spec, tiny.make_split())
    network = description.build(0).freeze()
    Predictor(description, network, network.classifier.export()).save(Path("model"))
    Path("image.png").write_bytes(encode_png(images()[0]))
    return Path("model")


def images() -> torch.Tensor:
    found = tiny.make_split().test.images
    assert isinstance(found, torch.Tensor)
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    return command.main()


def test_a_folder_becomes_a_program_that_says_what_the_model_says(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "model", "out.pt2", "image.png") == 0
    assert capsys.readouterr().out == "out.pt2\n"
    expected = Predictor.load(model).predict([encode_png(image) for image in images()])
    said = torch.export.load("out.pt2").module()(images()).detach()
    torch.testing.assert_close(said, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("missing", "said"),
    [*((f"model/{file}", "model holds no model") for file in FILES), ("image.png", "image.png cannot")],
)
def test_what_is_missing_is_named(
    model: Path, missing: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(missing).unlink()
    assert run(monkeypatch, "model", "out.pt2", "image.png") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(said) and not printed.out
    assert not Path("out.pt2").exists()


def test_a_folder_that_takes_no_files_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "model", "/proc/out.pt2") == 2
    assert capsys.readouterr().err.startswith("/proc/out.pt2 cannot be written")


def test_an_image_that_is_none_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("image.png").write_bytes(b"not an image")
    assert run(monkeypatch, "model", "out.pt2", "image.png") == 2
    assert "image 0 " in capsys.readouterr().err
    assert not Path("out.pt2").exists()


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_a_sentence(model: Path, file: str) -> None:
    content = (model / file).read_bytes()
    (model / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="model holds no model"):
        load("model")


def test_weights_of_another_network_are_refused(model: Path) -> None:
    described = json.loads((model / "network.json").read_text())
    described["network"]["backbone"] = "resnet20"
    (model / "network.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="model holds no model"):
        load("model")


@pytest.mark.parametrize("model", ["models:/animals", "models:/animals/1", "models:/animals@best", "models:animals"])
def test_an_address_that_names_no_alias_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=r"write models:/NAME@champion"):
        load(model)
