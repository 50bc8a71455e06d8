"""The paired bootstrap against all draws there are, a plain loop, and simulated models whose gain is known."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from judged import ANIMALS, GROUPS, IMAGES, SAME, a_gate, answers, check_of, decide, models
from longtail.retraining.bootstrap import interval, pair, resampled_gains
from longtail.retraining.gate import judge
from longtail.seeding import generator

OUTCOMES = np.array([[1, 1, 1], [0, 2, 2]])  # images with c = -1, 0, 1 of two classes
EVERY = np.array([True, True])


def loop_images(counts: Sequence[int]) -> list[int]:
    return [value for value, count in zip((-1, 0, 1), counts, strict=True) for _ in range(count)]


def all_gains() -> Counter[float]:
    """The mean gain of every draw of images with replacement that there is; all are equally likely."""
    draws = [itertools.product(images, repeat=len(images)) for images in map(loop_images, OUTCOMES.tolist())]
    per_class = [[sum(draw) / len(draw) for draw in drawn] for drawn in draws]
    return Counter(round((first + second) / 2, 9) for first, second in itertools.product(*per_class))


def compare_with_all_draws() -> None:
    drawn = resampled_gains(OUTCOMES, {"all": EVERY}, 50_000, seed=0)["all"]
    expected = all_gains()
    seen = Counter(np.round(drawn, 9).tolist())
    assert set(seen) <= set(expected), "a gain that no draw of images has"
    for gain, count in expected.items():
        share = count / expected.total()
        assert abs(seen[gain] / 50_000 - share) < 4 * (share / 50_000) ** 0.5 + 1e-4, gain


def test_drawn_counts_are_the_bootstrap_of_images() -> None:
    compare_with_all_draws()


def test_intervals_are_those_of_a_plain_resampling_loop() -> None:
    """Images are drawn within their class, and champion and challenger are asked about the same draw."""
    champion, challenger, truth = models({**SAME, "cow": (16, 9), "gnu": (4, 11)})
    source = torch.Generator().manual_seed(7)
    right = torch.tensor([champion.right(truth), challenger.right(truth)]).double().reshape(2, len(ANIMALS), IMAGES)
    gains = []
    for _ in range(4000):
        drawn = torch.randint(IMAGES, (len(ANIMALS), IMAGES), generator=source)
        before, after = (torch.stack([row[i][drawn[i]].mean() for i in range(len(ANIMALS))]) for row in right)
        gains.append(after.mean().item() - before.mean().item())
    decision = judge(a_gate(resamples=4000), champion, challenger, truth, GROUPS)
    low, high = interval(np.array(gains), 0.9)
    assert check_of(decision, "overall").low == pytest.approx(low, abs=0.005)
    assert check_of(decision, "overall").high == pytest.approx(high, abs=0.005)


def test_sets_of_classes_see_the_same_draw() -> None:
    outcomes = pair(*models({**SAME, "cow": (16, 9), "gnu": (4, 11)})).outcomes
    cow, gnu = (np.array([name == chosen for name in ANIMALS]) for chosen in ("cow", "gnu"))
    drawn = resampled_gains(outcomes, {"cow": cow, "gnu": gnu, "both": cow | gnu}, 100, seed=3)
    assert drawn["both"] == pytest.approx((drawn["cow"] + drawn["gnu"]) / 2)
    assert drawn["cow"].std() > 0


def test_another_seed_draws_other_resamples() -> None:
    lows = {
        check_of(decide(a_gate(), {**SAME, "cow": (16, 9), "elk": (7, 9)}, seed=s), "overall").low for s in range(9)
    }
    assert len(lows) > 1


@pytest.mark.parametrize("confidence", [0.9, 0.6])
def test_the_interval_covers_the_true_gain_as_often_as_it_says(confidence: float) -> None:
    """Simulated models that are mostly right on the same images; an unpaired interval would cover far too often."""
    truth = [name for name in ANIMALS for _ in range(60)]
    rates = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).repeat_interleave(60)
    gained, lost = 0.08, 0.03
    source, covered, trials = generator(0, "coverage"), 0, 400
    for trial in range(trials):
        easy, luck = torch.rand(2, len(truth), generator=source)
        before = easy < rates - lost
        before |= (easy >= rates) & (luck < lost)
        after = easy < rates
        after = (after & (luck >= lost)) | (~after & (luck > 1 - gained))
        expected = (rates * (1 - lost) + (1 - rates) * gained - (rates - lost) - (1 - rates) * lost).mean().item()
        both = [
            answers(ANIMALS, [n if ok else ANIMALS[ANIMALS.index(n) - 1] for n, ok in zip(truth, right, strict=True)])
            for right in (before.tolist(), after.tolist())
        ]
        pairs = pair(both[0], both[1], truth)
        low, high = interval(resampled_gains(pairs.outcomes, {"": pairs.among(ANIMALS)}, 400, trial)[""], confidence)
        covered += low <= expected <= high
    spread = (confidence * (1 - confidence) / trials) ** 0.5
    assert abs(covered / trials - confidence) < 3 * spread, covered / trials
