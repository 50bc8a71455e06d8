"""What every loss promises, whatever its formula."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from longtail.losses import Loss
from longtail.seeding import generator
from unions import members, name_of

# At least one row per member, as params.yaml would have it.
ROWS: list[dict[str, Any]] = [
    {"name": "cross_entropy"},
    {"name": "focal", "gamma": 0.5, "modulating_factor": "unweighted"},
    {"name": "focal", "gamma": 2.0, "modulating_factor": "unweighted"},
    {"name": "ldam", "max_margin": 0.5, "scale": 30.0},
    {"name": "am_softmax", "margin": 0.35, "scale": 30.0},
    {"name": "balanced_softmax"},
    {"name": "logit_adjusted", "tau": 1.5},
    {"name": "gradual_balanced", "form": "convex", "s": 1.0, "c": 2.0},
    {"name": "gradual_balanced", "form": "linear", "s": 1.0, "c": 1.0},
    {"name": "gradual_balanced", "form": "concave", "s": -2.0, "c": 0.5},
]
COUNTS = torch.tensor([60, 25, 9, 4, 2, 1])
PROGRESS = [torch.tensor(t, dtype=torch.float64) for t in (0.0, 0.5, 0.995)]
every_loss = pytest.mark.parametrize("loss", [TypeAdapter(Loss).validate_python(row) for row in ROWS], ids=repr)
at_all_times = pytest.mark.parametrize("t", PROGRESS, ids=lambda t: f"t={t:g}")


def sample(seed: int = 0, samples: int = 16) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "sample")
    logits = 3 * torch.randn(samples, 6, dtype=torch.float64, generator=draws)
    return logits, torch.randint(6, (samples,), generator=draws)


def gradient(losses: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(losses.sum(), logits)[0]


def test_every_member_is_under_contract() -> None:
    missing = {name_of(member) for member in members(Loss)} - {row["name"] for row in ROWS}
    assert not missing, f"add a row for {missing} to ROWS"


@every_loss
@at_all_times
def test_one_finite_number_per_sample(loss: Loss, t: Tensor) -> None:
    logits, labels = sample()
    losses = loss(logits, labels, COUNTS, t)
    assert losses.shape == (16,)
    assert losses.isfinite().all()


@every_loss
@at_all_times
@given(st.permutations(range(16)))
def test_permuting_the_batch_permutes_the_losses(loss: Loss, t: Tensor, order: list[int]) -> None:
    logits, labels = sample()
    permuted = loss(logits[order], labels[order], COUNTS, t)
    torch.testing.assert_close(permuted, loss(logits, labels, COUNTS, t)[order], rtol=1e-13, atol=1e-13)


@every_loss
@at_all_times
def test_a_sample_does_not_know_its_batch(loss: Loss, t: Tensor) -> None:
    logits, labels = sample()
    single = torch.cat([loss(logits[i : i + 1], labels[i : i + 1], COUNTS, t) for i in range(16)])
    torch.testing.assert_close(single, loss(logits, labels, COUNTS, t), rtol=1e-13, atol=1e-13)


@every_loss
@at_all_times
@given(st.permutations(range(6)))
def test_renaming_the_classes_changes_nothing(loss: Loss, t: Tensor, order: list[int]) -> None:
    """Class order[k] is called k."""
    logits, labels = sample()
    names = torch.tensor(order).argsort()
    renamed = loss(logits[:, order], names[labels], COUNTS[order], t)
    torch.testing.assert_close(renamed, loss(logits, labels, COUNTS, t), rtol=1e-12, atol=1e-12)


@every_loss
@at_all_times
@given(st.floats(-100, 100))
def test_a_constant_added_to_the_logits_changes_nothing(loss: Loss, t: Tensor, constant: float) -> None:
    logits, labels = sample()
    shifted = loss(logits + constant, labels, COUNTS, t)
    torch.testing.assert_close(shifted, loss(logits, labels, COUNTS, t), rtol=1e-11, atol=1e-11)


@every_loss
@at_all_times
@given(st.integers(2, 1000))
def test_a_larger_data_set_of_the_same_shape_changes_nothing(loss: Loss, t: Tensor, factor: int) -> None:
    logits, labels = sample()
    scaled = loss(logits, labels, factor * COUNTS, t)
    torch.testing.assert_close(scaled, loss(logits, labels, COUNTS, t), rtol=1e-12, atol=1e-12)


@every_loss
@at_all_times
def test_a_batch_of_one_class_works(loss: Loss, t: Tensor) -> None:
    logits, _ = sample()
    for label in range(6):
        losses = loss(logits.requires_grad_(), torch.full((16,), label), COUNTS, t)
        assert gradient(losses, logits).isfinite().all()


@every_loss
@at_all_times
def test_the_label_is_pulled_up_and_the_others_down(loss: Loss, t: Tensor) -> None:
    logits, labels = sample()
    logits = logits / getattr(loss, "scale", 1)  # cosines that no scale makes so sure that p_y rounds to 1
    pull = gradient(loss(logits.requires_grad_(), labels, COUNTS, t), logits)
    own = torch.zeros(16, 6, dtype=torch.bool).scatter_(1, labels[:, None], True)
    assert (pull[own] < 0).all()
    assert (pull[~own] > 0).all()


@every_loss
@at_all_times
def test_inputs_are_not_changed(loss: Loss, t: Tensor) -> None:
    inputs = (*sample(), COUNTS.clone(), t.clone())
    before = [tensor.clone() for tensor in inputs]
    loss(*inputs)
    assert all(old.equal(new) for old, new in zip(before, inputs, strict=True))


@every_loss
@at_all_times
def test_gradient_is_that_of_the_value(loss: Loss, t: Tensor) -> None:
    logits, labels = sample(samples=4)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, COUNTS, t), logits.requires_grad_())


@every_loss
@at_all_times
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(loss: Loss, t: Tensor, dtype: torch.dtype) -> None:
    logits, labels = sample()
    losses = loss(logits.to(dtype), labels, COUNTS, t)
    assert losses.dtype == torch.float32
    assert losses.equal(loss(logits.to(dtype).float(), labels, COUNTS, t))


@every_loss
@at_all_times
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_precision_stays(loss: Loss, t: Tensor, dtype: torch.dtype) -> None:
    logits, labels = sample()
    assert loss(logits.to(dtype), labels, COUNTS, t).dtype == dtype


@every_loss
@at_all_times
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 6e4), (torch.bfloat16, 1e30), (torch.float32, 1e30)])
def test_extreme_logits_give_finite_losses_and_gradients(
    loss: Loss, t: Tensor, dtype: torch.dtype, size: float
) -> None:
    logits = (size * torch.tensor([[1.0, -1, 0, 0, 0, 0], [-1, 1, 0, 0, 0, 0]])).to(dtype).requires_grad_()
    losses = loss(logits, torch.tensor([1, 1]), COUNTS, t)
    assert losses.isfinite().all()
    assert gradient(losses, logits).isfinite().all()


@every_loss
def test_a_loss_is_its_row(loss: Any) -> None:
    again = TypeAdapter(Loss).validate_python(loss.model_dump())
    assert again == loss
    assert hash(again) == hash(loss)
