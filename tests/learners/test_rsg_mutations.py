"""Each step of RSG, switched off in our code: the comparison with the oracle must then fail."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from longtail.learners.centre_estimation import Centres, ContrastiveModule
from longtail.learners.head_tail_pairs import head_classes, pairs
from longtail.learners.rare_sample_generator import (
    RareSampleGenerator,
    contrast_loss,
    direction_loss,
    length_loss,
    vectors,
)
from longtail.learners.rsg import RSG, RSGStep
from longtail.training.objective import Objective
from mutations import mutate
from rsg_oracle import compare, row

PAPER = row()
WEAK = row(transfer_strength=0.3)
CENTRE = row(generation="centre", mv_terms=())
CM_REFERENCE = row(cm_pair="reference", mv_terms=("contrast",))
REFERENCE = row(mv_layout="reference", mv_terms=("direction",))
Mutation = tuple[RSG, Callable[..., Any], str, str]

OF_THE_CENTRES: dict[str, Mutation] = {
    "softmax": (PAPER, Centres.assign, "logits.softmax(1)", "logits.sigmoid()"),
    "average pooling": (PAPER, Centres.assign, ".mean((2, 3))", ".amax((2, 3))"),
    "the class's own A": (PAPER, Centres.assign, "self.weight[labels]", "self.weight[0 * labels]"),
    "the class's own b": (PAPER, Centres.assign, "self.bias[labels]", "self.bias[0 * labels]"),
    "b": (PAPER, Centres.assign, " + self.bias[labels]", ""),
    "the class's own centres": (PAPER, Centres.closest, "self.centres[labels,", "self.centres[0 * labels,"),
    "the closest centre": (PAPER, Centres.closest, "argmax(1)", "argmin(1)"),
}
OF_CESC: dict[str, Mutation] = {
    "first term": (PAPER, RSGStep.forward, "self.rare.centres.loss(known, labels)", "torch.zeros(())"),
    "second term": (PAPER, RSGStep.forward, " + self.rare.contrastive.loss(known, labels, order)", ""),
    "the samples' squares": (PAPER, Centres.loss, "own - 2", "-2"),
    "the product, twice": (PAPER, Centres.loss, "2 * across", "across"),
    "the centres' squares": (PAPER, Centres.loss, " + theirs", ""),
    "a centre at every location": (PAPER, Centres.loss, "maps[0, 0].numel() * ", ""),
    "shares of centres": (PAPER, Centres.loss, "self.assign(maps, labels)", "self.assign(maps, labels) * 0 + 1 / 3"),
    "mean over samples": (PAPER, Centres.loss, ").mean()", ").sum()"),
    "random pairs": (PAPER, RSGStep.forward, "torch.randperm(len(labels), generator=generator)", "labels.argsort()"),
    "pairs of two samples": (PAPER, ContrastiveModule.loss, "order[half : 2 * half]", "order[:half]"),
    "same or different": (PAPER, ContrastiveModule.loss, "labels[one] == labels[other]", "labels[one] >= 0"),
    "ReLU": (PAPER, ContrastiveModule.forward, ".relu()", ""),
    "second convolution": (PAPER, ContrastiveModule.forward, "self.second(", "("),
    "both maps": (PAPER, ContrastiveModule.forward, "[one, other]", "[one, one]"),
    "lambda": (PAPER, RSGStep.forward, "self.spec.lambda_cesc * ", ""),
}
OF_THE_GENERATION: dict[str, Mutation] = {
    "displacement": (
        PAPER,
        RareSampleGenerator.transfer,
        "widen(maps[heads]) - self.centres.closest(maps[heads], labels[heads])",
        "widen(maps[heads])",
    ),
    "T": (PAPER, RareSampleGenerator.transfer, "self.transformation(displacements)", "displacements"),
    "of the head": (PAPER, RareSampleGenerator.transfer, "widen(maps[heads])", "widen(maps[tails])"),
    "displacement in the new sample": (PAPER, RSGStep.generate, " + transfer.moved", ""),
    "added to the tail sample": (PAPER, RSGStep.generate, "anchors + transfer", "transfer"),
    "added to a sample, not to its centre": (PAPER, RSGStep.generate, "else transfer.tails", "else transfer.centres"),
    "added to the centre": (CENTRE, RSGStep.generate, "transfer.centres if", "transfer.tails if"),
    "the tail's label": (PAPER, RSGStep.forward, "labels[rows]", "0 * labels[rows]"),
    "new samples": (PAPER, RSGStep.forward, "self.generate(known, labels, order)", "known[:0], order[:0], mv"),
    "new samples in L_cls": (PAPER, RSGStep.forward, "torch.cat([maps, more])", "torch.cat([maps, 0 * more])"),
    "start": (PAPER, RSGStep.forward, "< self.spec.start", "< 0.75"),
    "from start on, not after it": (PAPER, RSGStep.forward, "< self.spec.start", "<= self.spec.start"),
    "weights of new samples": (PAPER, Objective.forward, "self.class_weights[labels]", "1.0"),
}
OF_MV: dict[str, Mutation] = {
    "first term": (PAPER, RareSampleGenerator.mv_loss, '"direction" in terms', "False"),
    "second term": (PAPER, RareSampleGenerator.mv_loss, '"length" in terms', "False"),
    "third term": (PAPER, RareSampleGenerator.mv_loss, '"contrast" in terms', "False"),
    "mean of the first": (PAPER, RareSampleGenerator.mv_loss, "wanted, layout).mean()", "wanted, layout).sum()"),
    "mean of the second": (PAPER, RareSampleGenerator.mv_loss, "displacements, layout).mean()", "tails, layout).sum()"),
    "mean of the third": (PAPER, RareSampleGenerator.mv_loss, "cm_pair).mean()", "cm_pair).sum()"),
    "the tail's displacement": (PAPER, RareSampleGenerator.mv_loss, " - transfer.centres", ""),
    "distance of the cosine from 1": (PAPER, direction_loss, "(cosines - 1)", "cosines"),
    "the cosine's norms": (PAPER, direction_loss, "(one * other).sum(2) / lengths", "(one * other).sum(2)"),
    "first term over locations": (PAPER, direction_loss, ".abs().sum(1)", ".abs().mean(1)"),
    "second term over locations": (PAPER, length_loss, ".abs().sum(1)", ".abs().mean(1)"),
    "length of the original": (PAPER, length_loss, "lengths[0] - lengths[1]", "lengths[0]"),
    "absolute difference": (PAPER, length_loss, ".abs()", ""),
    "different, not same": (PAPER, contrast_loss, "[:, 0]", "[:, 1]"),
    "the contrastive module's pair": (PAPER, contrast_loss, '== "paper"', '!= "paper"'),
    "the released code's pair": (CM_REFERENCE, contrast_loss, '== "paper"', '!= "paper"'),
    "channels as vectors": (PAPER, vectors, "maps.permute(0, 2, 3, 1) if", "maps if"),
    "the released code's vectors": (REFERENCE, vectors, "else maps", "else maps.permute(0, 2, 3, 1)"),
    "lambda": (PAPER, RSGStep.forward, "self.spec.lambda_mv * ", ""),
}
OF_THE_PAIRS: dict[str, Mutation] = {
    "the most frequent": (PAPER, head_classes, "descending=True", "descending=False"),
    "alpha": (PAPER, head_classes, "floor(share * len(class_counts))", "1"),
    "heads and tails": (PAPER, RSGStep.generate, "order[~is_head]", "order"),
    "several tails for a head": (PAPER, pairs, "times = max(", "times = 1 if len(heads) < len(tails) else max("),
    "several heads for a tail": (PAPER, pairs, "floor(strength * len(more) / len(fewer))", "1"),
    "beta": (WEAK, pairs, "floor(strength * len(more) / len(fewer))", "floor(len(more) / len(fewer))"),
    "one at least": (WEAK, pairs, "max(floor(strength * len(more) / len(fewer)), 1)", "0"),
    "each tail with each segment": (PAPER, pairs, "fewer.repeat(times)", "fewer[:1].repeat(times * len(fewer))"),
    "sides": (PAPER, pairs, "(chosen, repeated) if", "(repeated, chosen) if"),
}
DETACHED: dict[str, Mutation] = {
    "maps": (PAPER, RSGStep.forward, "maps.detach()", "maps"),
    "contrastive module": (PAPER, ContrastiveModule.frozen, "parameter.detach()", "parameter"),
}
MUTATIONS = {
    f"{group}: {name}": mutation
    for group, mutations in {
        "centres": OF_THE_CENTRES,
        "CESC": OF_CESC,
        "generation": OF_THE_GENERATION,
        "MV": OF_MV,
        "pairs": OF_THE_PAIRS,
        "detached": DETACHED,
    }.items()
    for name, mutation in mutations.items()
}


@pytest.mark.parametrize("spec", [PAPER, WEAK, CENTRE, CM_REFERENCE, REFERENCE], ids=range(5))
def test_the_comparisons_succeed_as_it_is(spec: RSG) -> None:
    compare(spec)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_notices_a_missing_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, function, old, new = MUTATIONS[name]
    mutate(monkeypatch, function, old, new)
    with pytest.raises(AssertionError):
        compare(spec)


@pytest.mark.parametrize("generation", ["transform", "centre"])
def test_the_comparison_notices_centres_that_are_not_detached(generation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Centres, "closest", inspect.unwrap(Centres.closest))
    with pytest.raises(AssertionError):
        compare(row(generation=generation, mv_terms=PAPER.mv_terms if generation == "transform" else ()))


def test_the_comparison_notices_another_kernel() -> None:
    def shrink(step: RSGStep) -> None:
        first = step.rare.contrastive.first
        first.padding = (0, 0)
        first.weight = torch.nn.Parameter(first.weight[:, :, 1:2, 1:2].clone())

    with pytest.raises(AssertionError):
        compare(PAPER, shrink)
