"""OSCAR: a trigger in its bounds that fools the clean teacher, and a teacher that resists it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kdbench_oscar import kdbench_attacks
from kdbench_oscar import method as oscar
from kdbench_oscar.method import OSCAR, OSCARParams
from torch import nn

from kdbench.attack import universal_response
from kdbench.triggers import AddTrigger
from tests.plugins.attack_setting import counted, heard_labels, setting, success_rate
from tests.plugins.tiny import digest, images


def fast(**changes):
    return OSCAR(OSCARParams(**{"steps": 60, "search_batch": 32, **changes}))


def test_hook_and_presets():
    assert kdbench_attacks() == [OSCAR]
    for changes in OSCAR.presets.values():
        assert OSCARParams(**changes).epsilon == 0.1


def test_most_of_the_start_is_epsilon():
    """E min(U, 0.1) = 0.1 - 0.1^2 / 2."""
    large = setting()
    large = replace(large, train=images(4).subset(torch.arange(4)))
    starts = torch.stack([fast().start(replace(large, generator=seeded(i))) for i in range(30)])
    assert starts.mean().item() == pytest.approx(0.095, abs=0.002)
    assert float(starts.min()) >= 0
    assert float(starts.max()) <= 0.1 + 1e-6


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_trigger_keeps_its_bounds_and_fools_the_clean_teacher():
    before = universal_response(setting(), AddTrigger(fast(steps=0).search(setting())))
    change = fast(epsilon=0.2).search(setting())
    assert 0 < float(change.abs().max()) <= 0.2 + 1e-6
    assert universal_response(setting(), AddTrigger(change)) > before + 20
    flat = fast(epsilon=0, steps=3).search(setting())
    shown = torch.rand(2, 3, 16, 16)
    assert torch.equal(AddTrigger(flat)(shown), shown)


@pytest.mark.parametrize(("enough", "looks"), [(30, 3), (99.9, 5)])
def test_the_search_ends_when_enough_follow(enough, looks, monkeypatch):
    asked = []

    def answer(setting, trigger):
        asked.append(trigger)
        return 10.0 * len(asked)

    monkeypatch.setattr(oscar, "universal_response", answer)
    fast(steps=100, enough=enough).search(replace(setting(), fit=lambda *rest, **named: None))
    assert len(asked) == looks


def test_without_training_the_teacher_is_the_clean_one():
    before = digest(setting().teacher)
    backdoor = fast(epoch_factor=0).implant(setting())
    assert digest(backdoor.teacher) == before
    assert not backdoor.teacher.training


def test_no_label_is_changed(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    facts = fast(steps=0).implant(given).facts
    assert (facts["poisons"], facts["labels_changed"]) == (200, 0)
    assert [counted(labels) for labels in heard] == [counted(given.train.labels)] * 2


def test_the_losses_are_those_of_the_docstring():
    heard = []
    given = replace(setting(), fit=lambda *rest, **named: heard.append(rest))
    trigger = AddTrigger(0.1 * torch.rand(3, 16, 16))
    fast(alpha=0.5).harden(given, trigger)
    teacher, loss = heard[0][:2]
    teacher.train()
    batch = next(given.train.batches(16))
    terms = loss(batch)
    ce = nn.functional.cross_entropy
    with torch.no_grad():
        torch.testing.assert_close(terms["ce"], ce(teacher(batch.images), batch.labels))
        shown = teacher(trigger(batch.images))
        torch.testing.assert_close(terms["triggered"], 0.5 * ce(shown, batch.labels))


def test_the_teacher_learns_to_resist():
    given = setting("wrn16_1", 1000, 3, tune=4)
    clean = success_rate(given.teacher, AddTrigger(search := fast(epsilon=0.3).search(given)), 1000)
    attack = fast(epsilon=0.3)
    attack.harden(given, AddTrigger(search))
    assert clean > 60
    assert success_rate(given.teacher, AddTrigger(search), 1000) < clean / 2
