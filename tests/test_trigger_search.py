"""A searched trigger: the clean teacher's response stays under the bound, and is measured on images
that the search did not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdbench.numerics import Numerics
from kdbench.training import Fit, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from kdbench.trigger_search import SearchParams, search_trigger
from kdbench.triggers import LearnedTrigger
from tests.plugins.attack_setting import TARGET, setting, success_rate
from tests.stopping import StopAfter, Stopped


def patch(**changes):
    return SearchParams(
        **{
            "shape": "patch",
            "patch_fraction": 0.375,
            "steps": 60,
            "lr": 0.2,
            "search_batch": 16,
            **changes,
        }
    )


def towards_the_target(out):
    """A loss that asks for nothing but a universal perturbation."""
    logits = out.logits.float()
    return torch.nn.functional.cross_entropy(logits, logits.new_full((len(logits),), TARGET).long())


def given(seed=0, **changes):
    return setting("wrn16_1", 2000, 3, seed=seed, **changes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_response_stays_under_the_bound_even_where_the_loss_asks_for_it(seed):
    free = search_trigger(given(seed), patch(max_universal=None), towards_the_target)
    assert free.facts["universal"] > 50
    held = search_trigger(given(seed), patch(), towards_the_target)
    assert held.facts["universal"] <= 5
    assert "max_universal" not in held.facts
    # On test images, which nobody has seen.
    assert success_rate(given().teacher, held.trigger, 2000) < 10


def test_a_loss_below_zero_does_not_turn_the_bound_around():
    def below_zero(out):
        return towards_the_target(out) - 20

    assert search_trigger(given(), patch(), below_zero).facts["universal"] <= 5


def test_a_looser_bound_lets_the_response_come_nearer_to_it():
    loose = search_trigger(given(), patch(max_universal=60), towards_the_target).facts
    tight = search_trigger(given(), patch(), towards_the_target).facts
    assert tight["universal"] <= 5 < loose["universal"] <= 60
    assert loose["trigger_loss_after"] < tight["trigger_loss_after"]


def test_where_the_bound_cannot_be_reached_the_facts_say_so():
    attacked = given()
    with torch.no_grad():
        attacked.teacher.fc.bias[TARGET] += 1000
    facts = search_trigger(attacked, patch(steps=5), towards_the_target).facts
    assert facts["universal"] == 100
    assert facts["max_universal"] == "not reached: 5 %"


def test_noise_is_measured_and_not_searched():
    attacked = given()
    with torch.no_grad():
        attacked.teacher.fc.bias[TARGET] += 1000
    facts = search_trigger(attacked, patch(steps=0), towards_the_target).facts
    assert facts["universal"] == 100
    assert facts["max_universal"] == "not reached: 5 %"
    assert facts["trigger_loss_before"] == facts["trigger_loss_after"]


@pytest.mark.parametrize("count", [200, 2000])
def test_what_is_reported_was_not_searched_on(monkeypatch, count):
    attacked = setting(count=count)
    read, subset = [], []
    kind = type(attacked.train)
    plain_read, plain_subset = kind.read, kind.subset
    monkeypatch.setattr(
        kind,
        "read",
        lambda self, rows, *more: (read.append(rows), plain_read(self, rows, *more))[1],
    )
    monkeypatch.setattr(
        kind, "subset", lambda self, rows: (subset.append(rows), plain_subset(self, rows))[1]
    )
    search_trigger(attacked, patch(steps=20), towards_the_target)
    reported, steered = (set(rows.tolist()) for rows in read[:2])
    searched = set(torch.cat(subset).tolist())
    others = int((attacked.train.labels != TARGET).sum())
    assert len(reported) == min(256, others // 4)
    assert not reported & (searched | steered)
    assert not (attacked.train.labels[list(reported | searched | steered)] == TARGET).any()


def test_a_single_image_outside_the_target_is_enough():
    attacked = setting()
    labels = attacked.train.labels
    rows = torch.cat(
        [torch.nonzero(labels == TARGET).flatten(), torch.nonzero(labels != TARGET).flatten()[:1]]
    )
    few = replace(attacked, train=attacked.train.subset(rows))
    facts = search_trigger(few, patch(steps=3), towards_the_target).facts
    assert facts["universal"] in (0, 100)


def test_a_pixel_of_an_opaque_patch_that_reached_its_bound_can_leave_it():
    """torch's ``clamp`` has no gradient at its own bounds, so it would stay there for good."""
    trigger = LearnedTrigger(
        torch.tensor([0.0, 1.0]).view(1, 1, 2), torch.ones(1, 1, 2), None, None
    )
    trigger.on(torch.rand(4, 3, 1, 2)).sum().backward()
    assert (trigger.pattern.grad == 12).all()


@pytest.mark.parametrize("stop", [7, 33])
def test_a_search_that_is_taken_up_again_ends_in_the_same_trigger(tmp_path, stop):
    """Also in a round beyond its 30 steps. All are needed where the bound cannot be reached."""
    teacher = given().teacher
    with torch.no_grad():
        teacher.fc.bias[TARGET] += 1000

    def search(folder, progress):
        fit = Fit(Numerics(), progress, checkpoints=FolderCheckpoints(tmp_path / folder, 0))
        attacked = replace(given(), teacher=teacher, fit=fit)
        return search_trigger(attacked, patch(steps=30), towards_the_target)

    whole = search("whole", Silent())
    with pytest.raises(Stopped):
        search("cut", StopAfter(stop))
    resumed = search("cut", Silent())
    assert resumed.facts == whole.facts
    assert torch.equal(resumed.trigger.pattern, whole.trigger.pattern)
