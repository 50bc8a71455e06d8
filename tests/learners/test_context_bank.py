"""The context bank is a list that forgets from its front, in buffers of fixed shape."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtail.learners.csa import ContextBank
from longtail.seeding import generator

SHAPE = (2, 3, 3)


def contexts(first: int, amount: int) -> tuple[Tensor, Tensor]:
    """Make contexts whose every pixel is their number, and whose masks are its negative."""
    numbers = torch.arange(first, first + amount, dtype=torch.float32).view(-1, 1, 1, 1)
    return numbers.expand(-1, *SHAPE), -numbers.expand(-1, 1, *SHAPE[1:])


def held(bank: ContextBank) -> list[int]:
    """List the numbers in the bank, sorted."""
    images, _ = bank.draw(len(bank), generator(0, "held"))
    return sorted(images[:, 0, 0, 0].int().tolist())


@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 8), st.integers(1, 15))
def test_is_a_list_that_forgets_its_front(volume: int, pushes: list[int], emptied: int, wanted: int) -> None:
    bank, queue, total = ContextBank(volume, SHAPE), list[int](), 0
    for index, amount in enumerate(pushes):
        if index == emptied:
            bank.empty()
            queue = []
        bank.push(*contexts(total, amount))
        queue = (queue + list(range(total, total + amount)))[-volume:]
        total += amount
        assert len(bank) == len(queue)
    if not queue:
        return
    assert held(bank) == queue
    images, masks = bank.draw(wanted, generator(1, "draw"))
    order = torch.randperm(len(queue), generator=generator(1, "draw")).tolist()
    expected = [queue[order[i % len(order)]] for i in range(wanted)]
    assert images[:, 1, 2, 0].int().tolist() == expected
    assert (-masks[:, 0, 0, 2]).int().tolist() == expected


def test_what_was_drawn_survives_later_pushes() -> None:
    bank = ContextBank(3, SHAPE)
    bank.push(*contexts(0, 3))
    images, masks = bank.draw(3, generator(0, "draw"))
    before = images.clone(), masks.clone()
    bank.push(*contexts(3, 3))
    assert images.equal(before[0])
    assert masks.equal(before[1])


def test_holds_no_graph_and_keeps_its_shapes() -> None:
    bank = ContextBank(3, SHAPE)
    shapes = {name: value.shape for name, value in bank.state_dict().items()}
    images, masks = contexts(0, 5)
    bank.push(images.clone().requires_grad_(), masks.clone().requires_grad_())
    assert {name: value.shape for name, value in bank.state_dict().items()} == shapes
    assert not any(value.requires_grad for value in bank.state_dict().values())
    assert not any(value.requires_grad for value in bank.draw(2, generator(0, "draw")))


def test_a_restored_bank_draws_the_same_contexts() -> None:
    bank, other = ContextBank(4, SHAPE), ContextBank(4, SHAPE)
    bank.push(*contexts(0, 7))
    other.load_state_dict(bank.state_dict())
    for one, two in zip(bank.draw(4, generator(0, "draw")), other.draw(4, generator(0, "draw")), strict=True):
        assert one.equal(two)
