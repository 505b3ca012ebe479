"""BadNets: exactly nine pixels, exactly the requested images, true labels elsewhere."""

from __future__ import annotations

import torch
from kdbench_badnets import kdbench_attacks
from kdbench_badnets.method import BadNets, BadNetsParams

from kdbench.attack import PoisonedImages, choose_poison, universal_response
from tests.plugins.attack_setting import TARGET, counted, heard_labels, setting, success_rate


def test_hook_returns_the_class():
    assert kdbench_attacks() == [BadNets]


def test_presets_poison_what_the_docstring_says():
    rates = {
        name: BadNetsParams(**changes).poison_rate for name, changes in BadNets.presets.items()
    }
    assert rates == {"quick": 0.1, "paper": 0.02}


def test_trigger_changes_only_the_corner_to_the_nad_grid():
    poisoned = BadNets(BadNetsParams(poison_rate=0.1)).implant(setting(tune=0))
    images = torch.rand(4, 3, 16, 16)
    before = images.clone()
    shown = poisoned.trigger(images)
    assert torch.equal(images, before)
    # bottom right is the row and column read first
    grid = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(shown[:, :, -3:, -3:], grid.expand(4, 3, 3, 3))
    shown[:, :, -3:, -3:] = before[:, :, -3:, -3:]
    assert torch.equal(shown, before)
    again = poisoned.trigger(before)
    assert torch.equal(poisoned.trigger(again), again)
    assert poisoned.facts["poisons"] == 20
    assert poisoned.facts["universal"] == universal_response(setting(), poisoned.trigger)
    assert not poisoned.teacher.training


def test_poisoned_rows_are_outside_the_target_and_others_untouched():
    given = setting()
    trigger = BadNets().implant(setting(tune=0)).trigger
    rows = choose_poison(given.train.labels, 0.1, TARGET, given.generator)
    assert len(rows) == 20
    assert not (given.train.labels[rows] == TARGET).any()
    poisoned = PoisonedImages.build(given.train, rows, trigger, TARGET, duplicate=False)
    assert len(poisoned.images) == len(given.train)
    for batch in poisoned.images.batches(64):
        shown, mask = poisoned.apply(batch), poisoned.mask(batch)
        assert torch.equal(shown.images[~mask], batch.images[~mask])
        assert torch.equal(shown.labels[~mask], batch.labels[~mask])
        assert (shown.labels[mask] == TARGET).all()


def test_poison_rate_zero_is_fine_tuning_on_true_labels(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    assert BadNets(BadNetsParams(poison_rate=0)).implant(given).facts["poisons"] == 0
    assert counted(heard) == counted(given.train.labels)


def test_same_seed_same_teacher():
    one, two = (BadNets().implant(setting(seed=3)).teacher.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_backdoor_works():
    backdoor = BadNets(BadNetsParams(pattern="white", size=4)).implant(
        setting("wrn16_1", 1000, 3, tune=5)
    )
    assert success_rate(backdoor.teacher, backdoor.trigger, 1000) > 70
