"""Each step of CSA's Algorithm 1, switched off in our code: the comparison with the oracle must then fail."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from csa_oracle import compare, row
from longtail.learners import backgrounds, csa
from longtail.learners.context_bank import ContextBank
from longtail.learners.csa import CSA, CSAStep
from longtail.models.activation import activation_maps
from longtail.models.classifier import LinearClassifier

PAPER = row()
MIXUP = row(mixup={"alpha": 1.0, "until": 0.7})
Patch = tuple[Any, str, Any]


def another_class(maps: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return activation_maps(maps, weight, (labels + 1) % len(weight))


def no_class(maps: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return maps.mean(1)


def unstretched(cams: Tensor) -> tuple[Tensor, Tensor]:
    return cams, torch.zeros(len(cams), dtype=torch.bool)


def bilinear(cams: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(cams[:, None], size=tuple(size), mode="bilinear", align_corners=False)


def uncut(cams: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(cams[:, None], size=tuple(size), mode="bicubic", align_corners=False)


def sure_of_everything(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return torch.ones_like(labels, dtype=torch.bool)


def sure_of_anything(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return logits.softmax(1).amax(1) >= threshold


def keep_the_oldest(bank: ContextBank, images: Tensor, masks: Tensor) -> None:
    free = bank.volume - len(bank)
    push(bank, images[:free], masks[:free])


def with_replacement(bank: ContextBank, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    slots = torch.randint(len(bank), (wanted,), generator=generator)
    return bank.images[slots], bank.masks[slots]


def in_order(bank: ContextBank, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    torch.randperm(len(bank), generator=generator)
    slots = (bank.pushed - len(bank) + torch.arange(wanted)) % bank.volume
    return bank.images[slots], bank.masks[slots]


def unmasked(images: Tensor, contexts: Tensor, masks: Tensor, share: float) -> Tensor:
    return mix(images, contexts, torch.ones_like(masks), share)


def unmixed(images: Tensor, contexts: Tensor, masks: Tensor, share: float) -> Tensor:
    return images


def pasted(images: Tensor, contexts: Tensor, masks: Tensor, share: float) -> Tensor:
    return mix(images, contexts, masks, 1.0)


def swapped(images: Tensor, contexts: Tensor, masks: Tensor, share: float) -> Tensor:
    return mix(contexts, images, masks, share)


def nothing(*arguments: Any) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def uniform_first(step: CSAStep, uniform: Any, balanced: Any, *, progress: Tensor, generator: Any) -> Tensor:
    first = step.uniform_loss(uniform, progress, generator)
    if float(progress) < step.spec.start:
        return first
    step.renew(progress)
    step.collect(uniform)
    return first + step.balanced_loss(balanced, progress, generator)


mix, push = csa.mix, ContextBank.push
PATCHES: dict[str, Patch] = {
    "class_of_the_map": (backgrounds, "activation_maps", another_class),
    "weights_of_the_map": (backgrounds, "activation_maps", no_class),
    "relu": (backgrounds, "evidence", lambda cams: cams),
    "min_max": (backgrounds, "min_max", unstretched),
    "bicubic": (backgrounds, "enlarge", bilinear),
    "clamp": (backgrounds, "enlarge", uncut),
    "square": (backgrounds, "background", lambda attention: 1 - attention),
    "one_minus": (backgrounds, "background", lambda attention: attention.square()),
    "mask_pass_in_eval_mode": (csa, "evaluating", nullcontext),
    "threshold": (csa, "confident", sure_of_everything),
    "probability_of_the_true_class": (csa, "confident", sure_of_anything),
    "first_in_first_out": (ContextBank, "push", keep_the_oldest),
    "emptying": (CSAStep, "renew", lambda step, progress: None),
    "draw_without_replacement": (ContextBank, "draw", with_replacement),
    "random_contexts": (ContextBank, "draw", in_order),
    "mask_in_the_mixing": (csa, "mix", unmasked),
    "mixing": (csa, "mix", unmixed),
    "share_in_the_mixing": (csa, "mix", pasted),
    "side_of_the_contexts": (csa, "mix", swapped),
    "random_share": (CSAStep, "share", lambda step, generator: 0.5),
    "uniform_loss": (CSAStep, "uniform_loss", nothing),
    "balanced_loss": (CSAStep, "balanced_loss", nothing),
    "order_of_the_branches": (CSAStep, "forward", uniform_first),
}


def set_spec(**changes: Any) -> Callable[[CSAStep], None]:
    def change(step: CSAStep) -> None:
        step.spec = step.spec.model_copy(update=changes)

    return change


def enlarge_the_bank(step: CSAStep) -> None:
    step.bank = ContextBank(2 * step.spec.volume, (3, 8, 8)).double()


CHANGES: dict[str, tuple[CSA, Callable[[CSAStep], None]]] = {
    "volume": (PAPER, enlarge_the_bank),
    "warm_start": (row(threshold=0.0), set_spec(start=0.0)),
    "bank": (PAPER, set_spec(bank=False)),
    "masks_of_the_uniform_classifier": (PAPER, set_spec(masks_from="balanced")),
    "waiting_for_enough_contexts": (PAPER, set_spec(volume=1)),  # the step's own: the bank keeps its size
    "mixup": (MIXUP, set_spec(mixup=False)),
    "end_of_mixup": (MIXUP, set_spec(mixup=MIXUP.mixup.model_copy(update={"until": 1.0}) if MIXUP.mixup else False)),
}


@pytest.mark.parametrize("name", PATCHES)
def test_the_comparison_notices_a_missing_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(PAPER)
    monkeypatch.setattr(*PATCHES[name])
    with pytest.raises(AssertionError):
        compare(PAPER)


@pytest.mark.parametrize("name", CHANGES)
def test_the_comparison_notices_a_changed_step(name: str) -> None:
    spec, change = CHANGES[name]
    compare(spec)
    with pytest.raises(AssertionError):
        compare(spec, change)


def test_the_comparison_notices_a_missing_second_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    def equal_numbers(weight: Tensor) -> LinearClassifier:
        twin = LinearClassifier(weight.shape[1], weight.shape[0])
        twin.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
        return twin

    def share(step: CSAStep) -> None:
        assert isinstance(step.network.classifier, LinearClassifier)
        step.balanced = step.network.classifier

    monkeypatch.setattr(csa, "second_classifier", equal_numbers)  # sharing, not other numbers, makes the difference
    compare(PAPER)
    with pytest.raises(AssertionError):
        compare(PAPER, share)
