"""Each step of OFA's Algorithm 1, switched off in our code: the comparison with the oracle must then fail."""

from collections.abc import Callable
from typing import Any

import pytest
import test_ofa

import test_feature_fusion
from longtail.balancers import feature_fusion
from longtail.balancers.ofa import FusionBatches, FusionStep
from longtail.models import activation
from mutations import fails, mutate

Mutation = tuple[Callable[..., Any], str, str]
FUSION: dict[str, Mutation] = {
    "the map of the image's class": (activation.activation_maps, "weight[labels]", "weight[labels * 0]"),
    "stretching": (activation.min_max, "(maps - low) / torch.where(flat, 1.0, high - low)", "maps"),
    "specific mask": (feature_fusion.specific, "cams >= tau_s", "cams >= 0"),
    "specific mask the wrong way": (feature_fusion.specific, "cams >= tau_s", "cams <= tau_s"),
    "generic mask": (feature_fusion.generic, "cams <= tau_g", "cams <= 1"),
    "generic mask the wrong way": (feature_fusion.generic, "cams <= tau_g", "cams >= tau_g"),
    "zeros are left out": (feature_fusion.drawable, "mask & filled", "mask"),
    "random ratio": (feature_fusion.specific_share, "(shares * locations)", "(0 * shares + locations / 2)"),
    "all draws": (feature_fusion.draw_locations, "(uniforms * count)", "(0 * uniforms * count)"),
    "draws among the chosen": (feature_fusion.draw_locations, "chosen.int().argsort", "(0 * chosen.int()).argsort"),
    "own part": (feature_fusion.fuse, "drawable(maps, masks[0])[rows]", "drawable(maps, masks[1])[rows]"),
    "other part": (feature_fusion.fuse, "drawable(maps, masks[1])[partners]", "drawable(maps, masks[0])[partners]"),
    "the confusing image": (feature_fusion.fuse, "_sums(maps[partners], other", "_sums(maps[rows], other"),
    "the tail image": (feature_fusion.fuse, "_sums(maps[rows], own", "_sums(maps[partners], own"),
    "the rest is generic": (feature_fusion.fuse, "~is_own", "is_own"),
    "pooling": (feature_fusion.fuse, ") / locations", ")"),
}  # fmt: skip
CONFUSING: dict[str, Mutation] = {
    "never itself": (feature_fusion.confusing_classes, "own | ~pool", "~pool"),
    "the pool": (feature_fusion.confusing_classes, "own | ~pool", "own"),
    "the most confusing": (feature_fusion.confusing_classes, "descending=True", "descending=False"),
    "row, not column": (feature_fusion.confusing_classes, "-torch.inf, confusion", "-torch.inf, confusion.T"),
    "head classes have no say": (feature_fusion.confusing_classes, "[asked]", ""),
    "how many": (feature_fusion.confusing_classes, "[:, :most]", "[:, :1]"),
}
COMPOSITION: dict[str, Mutation] = {
    "fused samples": (FusionStep.compose, "if self.spec.fuse", "if not self.spec.fuse"),
    "labels of fused samples": (FusionStep.compose, "labels[rows]", "labels[tails:last]"),
    "one label for all": (FusionStep.compose, "labels[rows]", "labels[0 * rows]"),
    "real tail samples": (FusionStep.compose, "real[:tails]", "real[-tails:]"),
    "head samples": (FusionStep.compose, "real[last:]", "real[last:].flip(0)"),
    "partners": (FusionStep.fused, "self.spec.tails + torch", "torch"),
    "the threshold of the specific mask": (FusionStep.fused, "labels, self.spec.specific", "labels, 0.0"),
    "the threshold of the generic mask": (FusionStep.fused, "self.spec.generic", "1.0"),
}
DRAWING: dict[str, Mutation] = {
    "tail classes alike": (FusionBatches._tail_images, 'self.spec.tail_sampling == "image"', "True"),
    "tail classes only": (FusionBatches._tail_images, "self.tail.nonzero()", "self.head.nonzero()"),
    "head classes only": (FusionBatches.draw, "self._images_of(self.head", "self._images_of(self.tail"),
    "as many heads as tails": (FusionBatches.draw, "steps * tails * (1 + fused)", "steps * tails"),
    "confusing classes of the tail": (FusionBatches._partners, "self.confusing[labels]", "self.confusing[0 * labels]"),
    "an image of the class": (FusionBatches._one_of_each, "starts + places", "0 * starts + places"),
}  # fmt: skip
CASES = [
    *((name, change, test_feature_fusion.compare) for name, change in FUSION.items()),
    *((name, change, test_feature_fusion.compare_confusing) for name, change in CONFUSING.items()),
    *((name, change, test_ofa.compare) for name, change in COMPOSITION.items()),
    *((name, change, test_ofa.compare_batches) for name, change in DRAWING.items()),
]


@pytest.mark.parametrize(
    "compare", dict.fromkeys(compare for _, _, compare in CASES), ids=lambda compare: compare.__qualname__
)
def test_the_comparison_holds_without_a_mutation(compare: Callable[[], None]) -> None:
    assert not fails(compare)


@pytest.mark.parametrize(("change", "compare"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_step_that_is_switched_off_is_noticed(
    change: Mutation, compare: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, *change)
    assert fails(compare)
