"""The penalty on a trigger that the clean teacher obeys: its value, and how its weight adapts."""

from __future__ import annotations

import math

import pytest
import torch

from kdbench.universal_bound import UniversalBound

TAKEN, SPARED = torch.tensor([[2.0, 1, 0]]), torch.tensor([[0.0, 1, 2]])


def bound(most=10.0, unit=2.0):
    return UniversalBound(most, target_class=0, unit=unit)


def test_the_penalty_is_the_log_of_what_is_left_for_other_classes():
    logits = torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    left = 1 - logits.softmax(1)[:, 0]
    torch.testing.assert_close(bound().penalty(logits), 2 * -left.log().mean())


def test_a_certain_answer_is_a_finite_penalty_with_a_gradient():
    logits = torch.tensor([[500.0, 0, 0]], requires_grad=True)
    penalty = bound().penalty(logits)
    penalty.backward()
    assert penalty.item() == pytest.approx(2 * (500 - math.log(2)))
    assert logits.grad is not None
    assert float(logits.grad[0, 0]) == pytest.approx(2)
    assert bound().penalty(-logits.detach()).item() == pytest.approx(0, abs=1e-6)


def test_the_weight_follows_the_response_of_the_last_batches():
    """The aim is half the bound of 10 %."""
    steered = bound(most=10.0, unit=2.0)
    weights = []
    for logits in [TAKEN] * 3 + [SPARED] * 100:
        steered.penalty(logits)
        steered.adapt()
        weights.append(steered.weight.item())
    # Of the first batch a fifth counts: 20 %, which is three times the aim over it. Two count.
    assert weights[0] == pytest.approx(2 * math.exp(0.1 * 2))
    assert weights[2] == pytest.approx(2 * math.exp(0.1 * 2 * 3))
    assert max(weights) > weights[2], "the response of the last batches counts, not of the newest"
    assert weights[-1] < 2
    assert steered.response.item() == pytest.approx(0, abs=1e-6)


def test_the_weight_stays_while_the_response_is_what_is_aimed_at():
    steered = bound(most=100.0, unit=2.0)
    steered.response.fill_(50)
    steered.penalty(torch.cat([TAKEN, SPARED]))
    steered.adapt()
    assert steered.weight.item() == pytest.approx(2)


@pytest.mark.parametrize(("logits", "weight"), [(TAKEN, 2e4), (SPARED, 0.02)])
def test_the_weight_has_bounds(logits, weight):
    steered = bound(unit=2.0)
    for _ in range(1000):
        steered.penalty(logits)
        steered.adapt()
    assert steered.weight.item() == pytest.approx(weight)


def test_a_checkpoint_has_all_that_changes():
    steered, again = bound(), bound()
    for _ in range(5):
        steered.penalty(TAKEN)
        steered.adapt()
    again.load_state_dict(steered.state_dict())
    for each in (steered, again):
        each.penalty(SPARED)
        each.adapt()
    assert torch.equal(steered.weight, again.weight)
    assert torch.equal(steered.response, again.response)
