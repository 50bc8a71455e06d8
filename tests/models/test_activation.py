"""Class activation maps against their sum, against Grad-CAM, and where they show nothing."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from longtail.models.activation import activation_maps, min_max
from longtail.seeding import generator


def test_the_map_is_the_weighted_sum_of_channels() -> None:
    draws = generator(0, "maps")
    maps = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=draws)
    weight, labels = torch.randn(6, 4, dtype=torch.float64, generator=draws), torch.tensor([5, 0, 5])
    got = activation_maps(maps, weight, labels)
    for b, y in enumerate(labels.tolist()):
        for h in range(2):
            for w in range(5):
                wanted = sum(float(weight[y, d]) * float(maps[b, d, h, w]) for d in range(4))
                assert float(got[b, h, w]) == pytest.approx(wanted, abs=1e-12)


def test_it_is_grad_cam_for_pool_and_linear() -> None:
    network, images = tiny.make_network().eval(), torch.rand(6, 3, 8, 8, generator=generator(0, "images"))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    maps = network.maps(images).detach().requires_grad_()
    logits = network.classifier(maps.mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[torch.arange(6), labels].sum(), maps)
    grad_cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))
    size = maps.shape[2] * maps.shape[3]
    ours = F.relu(activation_maps(maps, network.classifier.weight, labels)) / size
    torch.testing.assert_close(ours, grad_cam)


def test_maps_are_summed_in_float32_under_autocast() -> None:
    maps, weight = torch.rand(2, 8, 3, 3, generator=generator(0, "m")), torch.rand(4, 8, generator=generator(0, "w"))
    with torch.autocast("cpu", torch.bfloat16):
        got = activation_maps(maps, weight, torch.tensor([1, 3]))
    assert got.equal(activation_maps(maps, weight, torch.tensor([1, 3])))


def test_min_max_stretches_each_map_alone() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[-4.0, 6.0]]])
    scaled, flat = min_max(maps)
    assert scaled.tolist() == [[[0.0, 1.0]], [[0.0, 1.0]]]
    assert not flat.any()


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan")])
def test_a_map_that_shows_nothing_is_flat_and_zero(value: float) -> None:
    maps = torch.stack([torch.full((2, 2), value), torch.tensor([[0.0, 1.0], [2.0, 4.0]])])
    scaled, flat = min_max(maps)
    assert flat.tolist() == [True, False]
    assert scaled.tolist() == [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.25], [0.5, 1.0]]]
