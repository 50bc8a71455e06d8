"""Networks that fork (BBN): another backbone, shared but for its last block, of which there are two side by side.

The last stage is the fork; its maps are those of both branches, one behind the other in channels. What a network does
with them at test is BBN's: half of each branch, times 2.

Source    Zhou et al., CVPR 2020, arXiv:1912.02413, section 4, and its released code
Differs   nothing for the ResNets, where a block is a residual block; the digits net has none, its last stage is doubled
Limits    equal weights in both branches: the backbone with its features twice
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from longtail.models import digits_cnn, resnet_cifar
from longtail.models.backbone import Backbone

Branch = Literal["conventional", "reversed"]


class Fork(nn.Module):
    """Two branches on the same maps.

    Args:
        conventional: learns from the data as it is, the paper's conventional learning branch.
        reversed: learns from the reversed sampler, its re-balancing branch.
    """

    def __init__(self, conventional: nn.Module, reversed: nn.Module) -> None:
        super().__init__()
        self.conventional, self.reversed = conventional, reversed

    def forward(self, maps: Tensor, branch: Branch | None = None) -> Tensor:
        """Map (B, C, H, W) to one branch's maps (B, D, H', W'), or to both, (B, 2D, H', W')."""
        if branch == "conventional":
            return self.conventional(maps)  # type: ignore[no-any-return]
        if branch == "reversed":
            return self.reversed(maps)  # type: ignore[no-any-return]
        return torch.cat([self.conventional(maps), self.reversed(maps)], 1)


def build_block_fork(base: Backbone, channels: int, image_size: int) -> list[nn.Module]:
    """Build the stages of a backbone, the last one without its last block, then the fork into two such blocks."""
    *shared, last = base.build(channels, image_size)
    *_, other = base.build(channels, image_size)  # for a second draw of the last block
    assert isinstance(last, nn.Sequential) and isinstance(other, nn.Sequential)
    return [*shared, last[:-1], Fork(last[-1], other[-1])]


def build_stage_fork(base: Backbone, channels: int, image_size: int) -> list[nn.Module]:
    """Build all stages of a backbone but the last, then the fork into two of those."""
    *shared, last = base.build(channels, image_size)
    *_, other = base.build(channels, image_size)
    return [*shared, Fork(last, other)]


BACKBONES = {
    f"bbn_{name}": Backbone(partial(build, base), 2 * base.feature_dim, base.min_size, base.channels)
    for family, build in ((digits_cnn, build_stage_fork), (resnet_cifar, build_block_fork))
    for name, base in family.BACKBONES.items()
}
