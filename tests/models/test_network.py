"""The network of stages: normalisation, slices of maps, pooling, and what makes CAMs and freezing work."""

import pytest
import torch
from torch import nn

import tiny
from longtail.models.classifier import CosineClassifier, LinearClassifier
from longtail.models.network import Network, Normalize


def small(classifier: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU()),
    ]
    assert classifier is None or isinstance(classifier, LinearClassifier | CosineClassifier)
    return Network(stages, classifier or LinearClassifier(5, 3)).double()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_normalize_standardises_each_channel() -> None:
    mean, std = (0.2, 0.5, 0.9), (0.1, 0.4, 2.0)
    images = torch.rand(2, 3, 4, 5)
    result = Normalize(mean, std)(images)
    for b in range(2):
        for c in range(3):
            expected = (images[b, c] - mean[c]) / std[c]
            torch.testing.assert_close(result[b, c], expected)


def test_features_average_each_map_over_its_pixels(images: torch.Tensor) -> None:
    network = small().requires_grad_(False)
    maps, features = network.maps(images), network.features(images)
    for b in range(4):
        for d in range(5):
            pixels = [float(maps[b, d, i, j]) for i in range(maps.shape[2]) for j in range(maps.shape[3])]
            assert float(features[b, d]) == pytest.approx(sum(pixels) / len(pixels))
    torch.testing.assert_close(network(images), network.classifier(features))


@pytest.mark.parametrize("cut", [-3, -2, -1, 0, 1, 2, 3])
def test_two_slices_of_stages_make_the_whole(images: torch.Tensor, cut: int) -> None:
    network = small().eval()
    first = network.maps(images, stop=cut)
    assert torch.equal(network.maps(first, start=cut), network.maps(images))


def test_an_empty_slice_returns_the_images(images: torch.Tensor) -> None:
    assert torch.equal(small().maps(images, stop=0), images)


def test_class_activation_map_is_grad_cam_times_the_pixels_for_a_linear_classifier(images: torch.Tensor) -> None:
    network = small().eval()
    labels = torch.tensor([2, 0, 1, 2])
    cam, grad_cam = cams(network, images, labels)
    height, width = cam.shape[1:]
    torch.testing.assert_close(cam, grad_cam * height * width)


def test_class_activation_map_is_not_grad_cam_for_a_cosine_classifier(images: torch.Tensor) -> None:
    cam, grad_cam = cams(small(CosineClassifier(5, 3, 1.0)).eval(), images, torch.tensor([2, 0, 1, 2]))
    scales = cam.flatten() / grad_cam.flatten()
    assert scales.std() > 1e-3 * scales.mean().abs()


def cams(network: Network, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CAM by weights and Grad-CAM by gradients (Selvaraju et al., 2017, eq. 1 and 2, before the ReLU)."""
    maps = network.maps(images)
    scores = network.classifier(maps.mean((2, 3)))
    cam = torch.einsum("bd,bdhw->bhw", network.classifier.weight[labels], maps)
    (gradients,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), maps)
    return cam, torch.einsum("bd,bdhw->bhw", gradients.mean((2, 3)), maps)


def test_freezing_stops_gradients_and_statistics(images: torch.Tensor) -> None:
    network = small()
    network(images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits = network.freeze()(images)
    assert not logits.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    network.train()(images)
    assert not torch.equal(before["stages.0.1.running_mean"], network.state_dict()["stages.0.1.running_mean"])


def test_map_shapes_are_those_of_the_maps() -> None:
    network = tiny.make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    for stop in (1, 2, -1, None):
        assert network.map_shape(stop) == tuple(network.maps(images, stop=stop).shape[1:])
    assert network.training
    network = tiny.make_network()
    network.map_shape()
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())  # BatchNorm saw no zeros


def test_statistics_go_into_a_copy() -> None:
    network = tiny.make_network().eval()
    name = next(name for name, _ in network.named_buffers() if name.endswith("running_mean"))
    value = torch.arange(8.0)
    images = torch.rand(2, 3, 8, 8)
    before = network(images)
    moved = network.with_statistics({name: value})
    assert moved.state_dict()[name].equal(value)
    assert not moved(images).equal(before)
    assert network(images).equal(before)
