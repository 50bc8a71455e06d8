"""Centre estimation with sample contrast (CESC): k centres per class, and a module that tells same from different.

    g = softmax(A_y ave(x) + b_y)                     how much x belongs to each centre C_i of its class        (eq. 1)
    u = x - up(C_i), i = argmax g                     the displacement of x from the closest                    (eq. 3)
    CESC = <sum_i g_i sum_dhw (x - up(C_i))^2> + <-log p(same class, or different)>                             (eq. 5)

The centres are anchors: what is left of a sample without its centre is pose and light rather than class.

Source    RSG, Wang et al., CVPR 2021, arXiv:2106.09859, section 3; initial values from its released code
Differs   the square is expanded, |x|^2 - 2 <sum_i g_i C_i, sum_hw x> + H W sum_i g_i |C_i|^2: the same number without
          k differences per sample. The contrastive module's last layer starts with N(0, 1 / width) where its first
          kernel is 3: with the N(0, 1) of the released code, whose kernel is 1, it diverged in some runs of the recipe
Limits    one centre: g = 1, and C is drawn to the mean of the class's maps
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

WIDTH = 256  # channels of the contrastive module, "throughout the paper"


class Centres(nn.Module):
    """The centre estimation module and the centres.

    Args:
        num_classes: K.
        channels: D of the maps.
        centres: k per class.
    """

    def __init__(self, num_classes: int, channels: int, centres: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(num_classes, channels, centres)
        )  # alone tells the centres apart at first
        self.bias = nn.Parameter(torch.ones(num_classes, centres))
        self.centres = nn.Parameter(torch.zeros(num_classes, centres, channels))

    def assign(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return g, (B, k) summing to 1, for maps (B, D, H, W) and labels (B,) (eq. 1)."""
        with torch.autocast(maps.device.type, enabled=False):
            pooled = widen(maps).mean((2, 3))
            logits = torch.einsum("bd,bdk->bk", pooled, self.weight[labels]) + self.bias[labels]
            return logits.softmax(1)

    def loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the first term of CESC (eq. 5), a mean over the samples of maps (B, D, H, W) with labels (B,)."""
        with torch.autocast(maps.device.type, enabled=False):  # D H W squares add up: in float32
            maps, shares, centres = widen(maps), self.assign(maps, labels), self.centres[labels]
            own = maps.square().sum((1, 2, 3))
            across = (torch.einsum("bk,bkd->bd", shares, centres) * maps.sum((2, 3))).sum(1)
            theirs = maps[0, 0].numel() * (shares * centres.square().sum(2)).sum(1)
            return (own - 2 * across + theirs).mean()

    @torch.no_grad()
    def closest(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return each sample's most probable centre, (B, D, 1, 1): broadcasting is up(), which repeats it (eq. 3)."""
        return self.centres[labels, self.assign(maps, labels).argmax(1)][:, :, None, None]


class ContrastiveModule(nn.Module):
    """Tells whether two maps show the same class (eq. 2).

    Args:
        channels: D of each.
        kernel: of the first convolution; 3 in the paper, 1 in the released code.
        width: channels of both convolutions.
    """

    def __init__(self, channels: int, kernel: int, width: int = WIDTH) -> None:
        super().__init__()
        self.first = initialised(nn.Conv2d(2 * channels, width, kernel, padding=kernel // 2))
        self.second = initialised(nn.Conv2d(width, width, 3, padding=1))
        self.verdict = nn.Linear(width, 2)
        # The released code draws N(0, 1), and the paper says nothing. Behind a 3x3 kernel such logits diverged in one
        # of six seeds within an epoch of the published recipe; these did not, but are not immune (constant lr 0.1).
        nn.init.normal_(self.verdict.weight, std=1.0 if kernel == 1 else width**-0.5)
        nn.init.zeros_(self.verdict.bias)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return logits (P, 2), of different and of same, for P pairs of maps (P, D, H, W)."""
        maps = self.second(self.first(torch.cat([one, other], 1)).relu())
        return widen(self.verdict(maps.mean((2, 3))))

    def frozen(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the same logits, which send gradients to the maps and none to this module's weights."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        logits: Tensor = functional_call(self, weights, (one, other))
        return logits

    def loss(self, maps: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Return the second term of CESC (eq. 5), a mean over B // 2 pairs; 0 for a batch of one.

        Args:
            maps: (B, D, H, W).
            labels: (B,).
            order: (B,) a random permutation: its first half meets its second half, and an odd one stays alone.
        """
        half = len(order) // 2
        if half == 0:
            return torch.zeros((), device=maps.device)
        one, other = order[:half], order[half : 2 * half]
        return F.cross_entropy(self(maps[one], maps[other]), (labels[one] == labels[other]).long())


def initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    """Draw Kaiming-normal weights, set the bias to zero."""
    assert convolution.bias is not None
    nn.init.kaiming_normal_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


def widen(maps: Tensor) -> Tensor:
    """Return maps in float32, or as they are where they are wider."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
