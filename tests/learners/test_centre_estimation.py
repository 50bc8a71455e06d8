"""CESC: the expanded square against the sum as written, and who learns from what."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.learners.rsg import Centres, ContrastiveModule, widen
from longtail.seeding import generator, seeded

SIZES = st.integers(1, 4)


def make_centres(classes: int = 3, channels: int = 4, centres: int = 5, seed: int = 0) -> Centres:
    with seeded(seed, "centres"):
        module = Centres(classes, channels, centres)
        torch.nn.init.normal_(module.bias)
        torch.nn.init.normal_(module.centres)
    return module.double()


def sample(
    samples: int = 6, classes: int = 3, channels: int = 4, height: int = 2, width: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "maps")
    maps = torch.randn(samples, channels, height, width, dtype=torch.float64, generator=draws)
    return maps, torch.randint(classes, (samples,), generator=draws)


def summed(module: Centres, maps: Tensor, labels: Tensor) -> Tensor:
    """Return the first term of eq. 5 as it is written."""
    total = torch.zeros((), dtype=torch.float64)
    for x, label in zip(maps, labels.tolist(), strict=True):
        shares = (x.mean((1, 2)) @ module.weight[label] + module.bias[label]).softmax(0)
        for share, centre in zip(shares, module.centres[label], strict=True):
            total = total + share * (x - centre[:, None, None]).square().sum()
    return total / len(maps)


@given(st.integers(1, 8), SIZES, SIZES, SIZES, SIZES, SIZES, st.integers(0, 99))
def test_the_expanded_square_is_the_sum_as_written(
    samples: int, classes: int, channels: int, centres: int, height: int, width: int, seed: int
) -> None:
    module = make_centres(classes, channels, centres, seed)
    maps, labels = sample(samples, classes, channels, height, width, seed)
    ours, theirs = module.loss(maps, labels), summed(module, maps, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    pairs = (torch.autograd.grad(loss, list(module.parameters())) for loss in (ours, theirs))
    for mine, other in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_one_centre_is_drawn_to_the_mean_of_its_class() -> None:
    module, (maps, labels) = make_centres(centres=1), sample()
    with torch.no_grad():
        for label in range(3):
            module.centres[label, 0] = maps[labels == label].mean((0, 2, 3))
    (gradient,) = torch.autograd.grad(module.loss(maps, labels), module.centres)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_centres_start_together_and_learn_to_differ() -> None:
    with seeded(0, "fresh"):
        module = Centres(3, 4, 5).double()
    assert not module.centres.any()
    maps, labels = sample()
    (gradient,) = torch.autograd.grad(module.loss(maps, labels), module.centres)
    assert len({tuple(centre.tolist()) for centre in gradient[labels[0]]}) == 5


def test_only_classes_of_the_batch_learn() -> None:
    module, (maps, _) = make_centres(), sample()
    loss = module.loss(maps, torch.ones(6, dtype=torch.int64))
    for gradient in torch.autograd.grad(loss, list(module.parameters())):
        assert gradient[1].any()
        assert not gradient[[0, 2]].any()


def test_the_closest_centre_is_one_of_the_class_and_sends_no_gradient() -> None:
    module, (maps, labels) = make_centres(), sample()
    closest = module.closest(maps, labels)
    assert not closest.requires_grad
    for centre, share, label in zip(closest, module.assign(maps, labels), labels, strict=True):
        assert centre.flatten().equal(module.centres[label, int(share.argmax())])


def test_under_autocast_squares_add_up_in_float32() -> None:
    module, (maps, labels) = make_centres().float(), sample(height=8, width=8)
    coarse = maps.bfloat16()
    expected = module.loss(coarse.float(), labels), module.assign(coarse.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.loss(coarse, labels).equal(expected[0])
        assert module.assign(coarse, labels).equal(expected[1])
    assert expected[0].dtype == torch.float32


def make_contrastive(kernel: int = 3, width: int = 8) -> ContrastiveModule:
    with seeded(0, "contrastive"):
        return ContrastiveModule(4, kernel, width).double()


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_contrastive_module_has_the_papers_sizes(kernel: int) -> None:
    module = ContrastiveModule(4, kernel)
    assert module.first.weight.shape == (256, 8, kernel, kernel)
    assert module.second.weight.shape == (256, 256, 3, 3)
    assert module.verdict.weight.shape == (2, 256)
    maps = torch.rand(3, 4, 5, 7)
    assert module.first(torch.cat([maps, maps], 1)).shape[2:] == (5, 7)
    assert module(maps, maps).shape == (3, 2)


def test_frozen_gives_the_same_logits_with_gradients_to_the_maps_alone() -> None:
    module, (maps, _) = make_contrastive(), sample()
    maps.requires_grad_()
    frozen = module.frozen(maps[:3], maps[3:])
    assert frozen.equal(module(maps[:3], maps[3:]))
    gradients = torch.autograd.grad(frozen.sum(), [maps, *module.parameters()], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].any()
    assert all(gradient is None for gradient in gradients[1:])
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_an_odd_sample_is_left_over(size: int) -> None:
    module, (maps, labels) = make_contrastive(), sample(size)
    order = torch.randperm(size, generator=generator(0, "order"))
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(maps, labels, order), maps)
    assert gradient.flatten(1).any(1).sum() == size // 2 * 2
    if size % 2:
        assert not gradient[order[-1]].any()


def test_a_batch_of_one_has_no_pair() -> None:
    module, (maps, labels) = make_contrastive(), sample(1)
    assert float(module.loss(maps, labels, torch.tensor([0]))) == 0


def test_it_learns_which_pairs_are_of_one_class() -> None:
    module, labels = make_contrastive(), torch.tensor([0, 1, 0, 0, 0, 1, 1, 1])
    maps = torch.stack([labels.double(), 1.0 - labels, 0.0 * labels, 0.0 * labels], 1)[:, :, None, None]
    maps, order = maps.expand(-1, -1, 2, 2), torch.arange(8)
    weights = list(module.parameters())
    for _ in range(100):
        slopes = torch.autograd.grad(module.loss(maps, labels, order), weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(0.05 * slope)
    same = module(maps[:4], maps[4:]).argmax(1)
    assert same.equal((labels[:4] == labels[4:]).long())


def test_widens_what_is_narrow_alone() -> None:
    dtypes = (torch.bfloat16, torch.float32, torch.float64)
    assert [widen(torch.zeros(1, dtype=dtype)).dtype for dtype in dtypes] == [
        torch.float32,
        torch.float32,
        torch.float64,
    ]
