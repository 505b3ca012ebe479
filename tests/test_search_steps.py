"""The steps of a search are counted, and what it is pushed by is the cross-entropy."""

from dataclasses import replace

import pytest
import torch

from kdbench.search_steps import fit_steps, target_loss
from tests.plugins.attack_setting import setting


def test_target_loss_is_the_cross_entropy_against_the_target():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits, torch.full((5,), 2))
    torch.testing.assert_close(target_loss(logits, 2), expected)


@pytest.mark.parametrize(
    ("steps", "until", "sizes"),
    [(0, None, []), (7, None, [28]), (50, False, [80, 80, 40]), (50, True, [80])],
)
def test_steps_are_counted_whatever_the_size_of_the_set(steps, until, sizes):
    """One call of the loop, or one for every look."""
    calls = []
    given = replace(setting(), fit=lambda what, loss, images, recipe, **rest: calls.append(images))
    fit_steps(
        given,
        torch.zeros(1, requires_grad=True),
        lambda batch: {},
        torch.tensor([3, 1, 4]),
        steps=steps,
        batch_size=4,
        lr=0.1,
        until=None if until is None else lambda: until,
    )
    assert [len(images) for images in calls] == sizes
    assert all(images.labels[:3].equal(given.train.labels[[3, 1, 4]]) for images in calls)
