"""Networks that fork: what they share, what they have twice, and what the branches say alone and together."""

import pytest
import torch
from torch import nn

from longtail.models import BACKBONES as ALL
from longtail.models import resnet_cifar
from longtail.models.fork import BACKBONES, Fork

NAMES = list(BACKBONES)
BLOCK_FORKS = [f"bbn_{name}" for name in resnet_cifar.BACKBONES]


def built(name: str, channels: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return BACKBONES[name].build(channels, 8)


def test_every_cifar_resnet_and_the_digits_net_have_a_fork() -> None:
    assert list(BACKBONES) == ["bbn_digits_cnn", *BLOCK_FORKS]
    assert "bbn_resnet32" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_the_fork_have_both_branches(name: str) -> None:
    base, shapes = ALL[name.removeprefix("bbn_")], []
    with torch.device("meta"):
        maps, plain = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
        for stage in base.build(3, 32):
            plain = stage(plain)
        for stage in BACKBONES[name].build(3, 32):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    assert shapes[-1] == (2 * plain.shape[1], *plain.shape[2:])
    assert shapes[-1][0] == BACKBONES[name].feature_dim
    assert (BACKBONES[name].min_size, BACKBONES[name].channels) == (base.min_size, base.channels)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_backbone_with_its_last_block_twice(name: str) -> None:
    """Parameters and, along the conventional branch, the maps of the backbone with those weights."""
    base = nn.ModuleList(ALL[name.removeprefix("bbn_")].build(3, 8))
    *shared, fork = built(name)
    assert isinstance(fork, Fork)
    path = nn.ModuleList([*shared, fork.conventional])
    theirs, ours = list(base.state_dict().values()), list(path.state_dict().values())
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    base.load_state_dict(dict(zip(base.state_dict(), ours, strict=True)))
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = nn.Sequential(*base).eval()(images)
        maps = nn.Sequential(*shared).eval()(images)
        assert fork.eval()(maps, "conventional").equal(expected)
    sizes = [sum(p.numel() for p in branch.parameters()) for branch in (fork.conventional, fork.reversed)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", BLOCK_FORKS)
def test_of_a_resnet_only_the_last_residual_block_is_twice(name: str) -> None:
    depth = int(name.removeprefix("bbn_resnet"))
    *shared, fork = built(name)
    blocks = [m for stage in shared for m in stage.modules() if isinstance(m, resnet_cifar.BasicBlock)]
    assert len(blocks) == (depth - 2) // 2 - 1
    assert isinstance(fork, Fork)
    assert isinstance(fork.conventional, resnet_cifar.BasicBlock)
    assert isinstance(fork.reversed, resnet_cifar.BasicBlock)


def test_branches_start_from_different_draws_and_share_nothing() -> None:
    fork = built("bbn_resnet20")[-1]
    assert isinstance(fork, Fork)
    kernels = [p for p in fork.conventional.parameters() if p.dim() == 4]
    others = [p for p in fork.reversed.parameters() if p.dim() == 4]
    assert not any(a.equal(b) for a, b in zip(kernels, others, strict=True))
    assert not {id(p) for p in fork.conventional.parameters()} & {id(p) for p in fork.reversed.parameters()}


def test_both_are_one_behind_the_other_and_one_alone_leaves_the_other_as_it_was() -> None:
    fork = built("bbn_digits_cnn")[-1]
    assert isinstance(fork, Fork)
    maps = torch.rand(2, 64, 4, 4)
    before = {name: value.clone() for name, value in fork.state_dict().items()}
    alone = fork(maps, "conventional"), fork(maps, "reversed")
    fork.load_state_dict(before)
    assert fork(maps).equal(torch.cat(alone, 1))
    fork.load_state_dict(before)
    fork(maps, "reversed")
    moved = {name for name, value in fork.state_dict().items() if not value.equal(before[name])}
    assert moved == {f"reversed.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_each_branch_compiles_as_one_graph() -> None:
    """As `compile_stages` compiles: the learner calls the stage, so that its branches gain too."""
    fork, maps = built("bbn_digits_cnn")[-1].eval(), torch.rand(2, 64, 4, 4)
    expected = [fork(maps, branch) for branch in ("conventional", "reversed", None)]
    torch._dynamo.reset()
    fork.compile(fullgraph=True, backend="eager", dynamic=False)
    for branch, value in zip(("conventional", "reversed", None), expected, strict=True):
        torch.testing.assert_close(fork(maps, branch), value)
