"""What every backbone keeps, whoever trains it; and which configurations are refused."""

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from longtail.models import BACKBONES, NetworkSpec, build_network
from longtail.models.network import Network, Normalize
from longtail.spec import InputError

# The same code as others, only deeper; tested in test_imagenet.py, test_resnet_cifar.py, test_fork.py.
DEEP = ("imagenet_resnet152", "resnet56", "resnet110", "bbn_resnet56", "bbn_resnet110")
NAMES = [name for name in BACKBONES if name not in DEEP]
CLASSES = 5


def spec(backbone: str, **changes: Any) -> NetworkSpec:
    return NetworkSpec(**{"backbone": backbone, "classifier": "linear", "scale": 1.0, "weights": None, **changes})


def size_of(backbone: str) -> int:
    return max(2 * BACKBONES[backbone].min_size, 8)


def network(backbone: str, seed: int = 0, channels: int | None = None, **changes: Any) -> Network:
    channels = channels or BACKBONES[backbone].channels or 1
    return build_network(
        spec(backbone, **changes),
        channels=channels,
        image_size=size_of(backbone),
        num_classes=CLASSES,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
        seed=seed,
    )


def images_for(backbone: str, batch: int = 3, channels: int | None = None) -> torch.Tensor:
    channels, size = channels or BACKBONES[backbone].channels or 1, size_of(backbone)
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_maps_features_and_logits(name: str, channels: int) -> None:
    if not BACKBONES[name].takes(channels, size_of(name)):
        pytest.skip("takes other channels")
    net, images = network(name, channels=channels).eval(), images_for(name, channels=channels)
    with torch.no_grad():
        maps, features, logits = net.maps(images), net.features(images), net(images)
    assert maps.dim() == 4
    assert features.shape == (3, BACKBONES[name].feature_dim) == (3, maps.shape[1])
    assert logits.shape == (3, CLASSES)
    torch.testing.assert_close(features, maps.mean((2, 3)))
    torch.testing.assert_close(logits, net.classifier(features))


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_between_stages_composes_to_the_whole(name: str) -> None:
    net, images = network(name).eval(), images_for(name)
    with torch.no_grad():
        whole = net.maps(images)
        for cut in range(-1, len(net.stages)):
            assert torch.equal(net.maps(net.maps(images, stop=cut), start=cut), whole)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_bits_and_other_seeds_other_weights(name: str) -> None:
    torch.manual_seed(1)
    a = network(name, seed=4).state_dict()
    torch.manual_seed(2)  # torch's global generator has no say
    b = network(name, seed=4).state_dict()
    c = network(name, seed=5).state_dict()
    assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])
    kernels = [key for key in a if a[key].dim() == 4]
    assert kernels and not any(torch.equal(a[key], c[key]) for key in kernels)


def test_building_leaves_torchs_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network("resnet20")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_does_not_change_the_backbones_first_weights(name: str) -> None:
    linear = network(name).stages.state_dict()
    cosine = network(name, classifier="cosine", scale=16.0).stages.state_dict()
    assert all(torch.equal(linear[key], cosine[key]) for key in linear)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_gradients_reach_every_parameter(name: str, classifier: str) -> None:
    net = network(name, classifier=classifier)
    torch.autograd.backward(F.cross_entropy(net(images_for(name)), torch.tensor([0, 1, 2])))
    unreached = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_state_is_stages_and_classifier_and_comes_back(name: str) -> None:
    net, other, images = network(name, seed=0), network(name, seed=1), images_for(name)
    state = net.state_dict()
    assert {key.split(".")[0] for key in state} == {"stages", "classifier"}
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), net.eval()(images))


@pytest.mark.parametrize("name", NAMES)
def test_in_eval_mode_an_image_is_classified_alone(name: str) -> None:
    net, images = network(name), images_for(name)
    with torch.no_grad():
        net(images)  # moves BatchNorm's statistics off their initial ones
        logits = net.eval()(images)
        alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same_logits_and_stays(name: str) -> None:
    net, images = network(name).eval(), images_for(name)
    fast, rearranged = copy.deepcopy(net), images.contiguous(memory_format=torch.channels_last)
    fast.to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(fast(rearranged), net(images), rtol=1e-4, atol=1e-4)
        assert fast.maps(rearranged).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("imagenet")])
def test_training_compiles_as_one_graph(name: str) -> None:
    net, images = network(name, classifier="cosine"), images_for(name)
    expected = copy.deepcopy(net)(images)
    torch._dynamo.reset()
    net.compile(fullgraph=True, backend="eager")  # fails on anything that needs Python in between
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_normalised_first_thing_inside(name: str) -> None:
    net, images = network(name).eval(), images_for(name)
    first = net.stages[0]
    assert isinstance(first, torch.nn.Sequential) and isinstance(first[0], Normalize)
    with torch.no_grad():
        expected = first[1]((images - 0.4) / 0.2 if BACKBONES[name].standardised else images)
        torch.testing.assert_close(net.maps(images, stop=1), expected, rtol=1e-4, atol=1e-4)


def refusal(**changes: Any) -> tuple[tuple[int | str, ...], str]:
    with pytest.raises(ValidationError) as caught:
        spec(**{"backbone": "resnet32", **changes})
    (detail,) = caught.value.errors()
    return detail["loc"], detail["msg"]


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    location, message = refusal(backbone="resnet33")
    assert location == ("backbone",)
    assert "resnet33" in message and all(name in message for name in BACKBONES)


def test_a_linear_classifier_refuses_a_scale_it_would_ignore() -> None:
    location, message = refusal(scale=16)
    assert location == ("scale",) and "ignore 16" in message
    assert spec("resnet32", classifier="cosine", scale=16).scale == 16


@pytest.mark.parametrize("scale", [0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    assert refusal(classifier="cosine", scale=scale)[0] == ("scale",)


def test_weights_are_refused_where_none_are_published() -> None:
    location, message = refusal(weights="IMAGENET1K_V2")
    assert location == ("weights",) and "resnet32 has no pretrained weights" in message


def test_weights_that_are_neither_a_name_nor_a_file_are_refused_with_the_names() -> None:
    location, message = refusal(backbone="imagenet_resnet50", weights="IMAGENET1K_V9")
    assert location == ("weights",) and "IMAGENET1K_V1, IMAGENET1K_V2" in message
    assert spec("imagenet_resnet50", weights="weights/net.pth").weights == "weights/net.pth"


@pytest.mark.parametrize(
    ("backbone", "channels", "size", "words"),
    [
        ("imagenet_resnet50", 1, 224, "images of 3 channels"),
        ("imagenet_resnet50", 3, 28, "from 32 pixels"),
        ("lenet", 1, 8, "from 12 pixels"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_backbones_that_do(
    backbone: str, channels: int, size: int, words: str
) -> None:
    with pytest.raises(InputError, match=f"^network.backbone is {backbone}, which takes .*{words}.*resnet20") as caught:
        build_network(
            spec(backbone),
            channels=channels,
            image_size=size,
            num_classes=2,
            mean=(0,) * channels,
            std=(1,) * channels,
            seed=0,
        )
    assert backbone not in str(caught.value).split("Choose one of ")[1].rstrip(".").split(", ")
