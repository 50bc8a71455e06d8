"""The exported program, run where longtail is not installed, says what the model says; or it is not kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny
from longtail.models import NetworkSpec
from longtail.models.classifier import Classifier, CosineClassifier
from longtail.models.network import Network
from longtail.models.saved import NetworkDescription
from longtail.seeding import generator, seeded
from longtail.serving.exported_program import DESCRIPTION, TOLERANCE, export
from longtail.serving.predictor import Predictor, encode_png
from longtail.spec import InputError

# Argument: a folder with images.pt and programs. Writes what each program says of batches of 7 and of 1.
ELSEWHERE = """
import importlib.util, pathlib, sys
sys.path = [entry for entry in sys.path if not pathlib.Path(entry, "longtail").exists()]  # an editable install
assert importlib.util.find_spec("longtail") is None, "this process must not find longtail by itself"
import torch
folder = pathlib.Path(sys.argv[1])
images, said = torch.load(folder / "images.pt"), {}
for file in sorted(folder.glob("*.pt2")):
    program = torch.export.load(file).module()
    said[file.stem] = [program(images).detach(), program(images[:1]).detach()]
torch.save(said, folder / "said.pt")
"""
NETWORKS = {"tiny": "digits_cnn", "resnet": "resnet20"}


def make_predictor(backbone: str) -> Predictor:
    """Build a network with random running statistics, so that a lost BatchNorm shows, and its own classifier."""
    spec = NetworkSpec(backbone=backbone, classifier="linear", scale=1, weights=None)
    description = NetworkDescription.of(spec, tiny.make_split())
    network = description.build(0)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator(0, name))
    return Predictor(description, network.freeze(), network.classifier.export())


def cosine(own: Classifier, network: Network) -> Classifier:
    with seeded(0, "cosine"):
        return CosineClassifier(own.weight.shape[1], len(own.weight), 8.0).export()


def moved_statistics(own: Classifier, network: Network) -> Classifier:
    moved = {name: 3 * value for name, value in network.state_dict().items() if name.endswith("running_var")}
    return replace(own, statistics=moved)


# What stage two can return: every field of Classifier, alone and together.
KINDS: dict[str, Callable[[Classifier, Network], Classifier]] = {
    "linear": lambda own, network: replace(own, bias=own.bias + torch.arange(5.0)),
    "cosine": cosine,
    "power": lambda own, network: replace(own, power=0.5),
    "logarithm": lambda own, network: replace(own, power=0.0),
    "centre": lambda own, network: replace(own, centre=own.weight.mean(0) + 1, unit_norm=True),
    "statistics": moved_statistics,
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program of every kind of classifier on both networks, and what each said elsewhere."""
    folder = tmp_path_factory.mktemp("programs")
    torch.save(seven_images(), folder / "images.pt")
    for network in NETWORKS:
        for kind in KINDS:
            export(saved_and_loaded(network, kind, folder / f"{network}-{kind}"), folder / f"{network}-{kind}.pt2")
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(folder)]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def saved_and_loaded(network: str, kind: str, folder: Path) -> Predictor:
    """Return the model as stage two leaves it: its statistics are in the network only once it is loaded."""
    plain = make_predictor(NETWORKS[network])
    replace(plain, classifier=KINDS[kind](plain.classifier, plain.network)).save(folder)
    return Predictor.load(folder)


def seven_images() -> Tensor:
    images = tiny.make_split().test.images
    assert isinstance(images, Tensor)
    return images[::3][:7]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_elsewhere_it_says_what_the_model_says(programs: Path, network: str, kind: str) -> None:
    expected = Predictor.load(programs / f"{network}-{kind}").predict([encode_png(image) for image in seven_images()])
    seven, one = torch.load(programs / "said.pt")[f"{network}-{kind}"]
    assert seven.dtype == torch.float32
    torch.testing.assert_close(seven, expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(one, expected[:1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_kinds_differ_by_more_than_the_tolerance(programs: Path, network: str) -> None:
    said = torch.load(programs / "said.pt")
    rows = torch.stack([said[f"{network}-{kind}"][0] for kind in KINDS]).flatten(1)
    apart = torch.cdist(rows, rows, p=torch.inf).fill_diagonal_(torch.inf)
    assert apart.min() > 100 * TOLERANCE, "a test that cannot tell a kind from another would say nothing"


def test_the_file_names_the_classes_and_the_images(programs: Path) -> None:
    extra = {DESCRIPTION: ""}
    torch.export.load(programs / "tiny-linear.pt2", extra_files=extra)
    described = json.loads(extra[DESCRIPTION])
    assert described == {"classes": list(tiny.make_split().classes), "channels": 3, "image_size": 8}


def test_it_holds_the_weights_once_and_not_the_network_s_own_classifier(programs: Path) -> None:
    program = torch.export.load(programs / "resnet-linear.pt2")
    predictor = Predictor.load(programs / "resnet-linear")
    own = sum(tensor.numel() for tensor in predictor.network.classifier.state_dict().values())
    network = sum(tensor.numel() for tensor in predictor.network.state_dict().values())
    stored = sum(tensor.numel() for tensor in [*program.state_dict.values(), *program.constants.values()])
    assert stored == network - own + predictor.classifier.weight.numel() + predictor.classifier.bias.numel()


def test_a_program_that_differs_is_refused_and_leaves_the_old_one(tmp_path: Path) -> None:
    predictor, file = make_predictor("digits_cnn"), tmp_path / "model.pt2"
    file.write_text("the old one")
    predictor.network.stages.insert(1, OtherwiseWhenExported())
    with pytest.raises(InputError, match=r"differ .* nothing was written"):
        export(predictor, file)
    assert file.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [file]


class OtherwiseWhenExported(nn.Module):
    """Adds a little, but only in the exported program."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + 0.01 if torch.compiler.is_exporting() else maps


@pytest.mark.parametrize(
    ("name", "said"), [("model.pt", "does not end in .pt2"), ("missing/model.pt2", "there is no folder")]
)
def test_a_name_that_will_not_do_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        export(make_predictor("digits_cnn"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_example_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image 0 "):
        export(make_predictor("digits_cnn"), tmp_path / "model.pt2", [b"no image"])
    assert not list(tmp_path.iterdir())


def test_into_a_folder_under_autocast_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    predictor = make_predictor("digits_cnn")
    before = {name: value.clone() for name, value in predictor.network.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        file = export(predictor, tmp_path, [encode_png(image) for image in seven_images()])
    assert file == tmp_path / "exported.pt2"
    assert list(tmp_path.iterdir()) == [file]
    after = predictor.network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
