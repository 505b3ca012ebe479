"""The global random states: seeded inside, put back outside, each one its own."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from kdbench.training import RandomStates, seeded
from kdbench.training.random_states import random_state, restore_random_state


def draw():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss()


def by_hand(seed):
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@pytest.fixture(autouse=True)
def _start():
    with seeded(99):
        yield


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize("cuda", [True, False])
def test_inside_it_is_the_seed_and_outside_as_if_nothing_had_been_drawn(seed, cuda):
    by_hand(5)
    expected = draw()
    by_hand(seed)
    inside = draw()
    by_hand(5)
    with contextlib.suppress(ZeroDivisionError), seeded(seed, cuda):
        assert draw() == inside
        raise ZeroDivisionError
    assert draw() == expected


def test_each_of_several_goes_on_where_its_last_turn_ended():
    by_hand(1)
    expected = [draw(), draw()]
    by_hand(1)
    states = RandomStates()
    by_hand(2)
    outside = [draw(), draw()]
    by_hand(2)
    drawn = []
    for _ in range(2):
        with states:
            drawn.append(draw())
    assert drawn == expected
    assert [draw(), draw()] == outside


def test_what_a_checkpoint_keeps_is_put_back_to_the_bit():
    by_hand(3)
    random.gauss()  # Python and numpy keep the second number of a pair
    np.random.randn()
    generator = torch.Generator().manual_seed(4)
    kept = random_state(generator)
    expected = draw(), np.random.randn(), torch.rand(2, generator=generator).tolist()
    by_hand(8)
    restore_random_state(kept, generator)
    assert (draw(), np.random.randn(), torch.rand(2, generator=generator).tolist()) == expected
