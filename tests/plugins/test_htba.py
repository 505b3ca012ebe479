"""HTBA: poisons stay near their base, keep its true label, collide with patched sources, and hide the patch."""

from __future__ import annotations

import pytest
import torch
from kdbench_htba import kdbench_attacks
from kdbench_htba.method import HTBA, HTBAParams, PlacedPatch, match

from kdbench.errors import ConfigError
from tests.plugins.attack_setting import TARGET, setting, success_rate


def fast(**changes):
    return HTBAParams(**{"iterations": 25, **changes})


def test_hook_and_presets():
    assert kdbench_attacks() == [HTBA]
    for changes in HTBA.presets.values():
        HTBAParams(**changes)


def test_matching_is_greedy_and_one_to_one():
    distances = torch.tensor([[1.0, 2.0, 9.0], [0.5, 3.0, 4.0], [6.0, 7.0, 8.0]])
    assert match(distances).tolist() == [1, 0, 2]
    random = match(torch.rand(40, 40, generator=torch.Generator().manual_seed(0)))
    assert random.sort().values.tolist() == list(range(40))


def test_place_depends_on_the_image_alone():
    images = (torch.rand(64, 3, 16, 16) * 255).round() / 255
    trigger = PlacedPatch(torch.rand(3, 4, 4), (3, 16, 16))
    shown = trigger(images)
    order = torch.randperm(64)
    assert torch.equal(trigger(images[order]), shown[order])
    assert torch.equal(trigger(images[5:6])[0], shown[5])
    top, left = trigger.places(images)
    assert int(top.min()) >= 0
    assert int(top.max()) <= 12
    assert len(top.unique()) > 5
    assert len(left.unique()) > 5
    i, t, c = 7, int(top[7]), int(left[7])
    assert torch.equal(shown[i, :, t : t + 4, c : c + 4], trigger.patch)
    shown[i, :, t : t + 4, c : c + 4] = images[i, :, t : t + 4, c : c + 4]
    assert torch.equal(shown[i], images[i])
    fixed = PlacedPatch(trigger.patch, (3, 16, 16), "fixed")(images)
    assert torch.equal(fixed[:, :, 12:, 12:], trigger.patch.expand(64, -1, -1, -1))


@pytest.mark.parametrize("step", ["sign", "raw"])
def test_poisons_are_near_their_base_and_collide(step):
    given = setting()
    attack = HTBA(fast(step=step, raw_lr=0.05))
    bases, sources = attack.choose(given)
    patched = PlacedPatch(torch.rand(3, 4, 4), (3, 16, 16))(given.train.read(sources))
    images = given.train.read(bases)
    flags = [p.requires_grad for p in given.teacher.parameters()]
    poisons, before, after = attack.craft(given, images, patched)
    assert flags == [p.requires_grad for p in given.teacher.parameters()]
    assert float((poisons - images).abs().max()) <= 16 / 255 + 1 / 255
    assert float(poisons.min()) >= 0
    assert float(poisons.max()) <= 1
    assert after < (0.8 if step == "sign" else 1.0) * before
    stored = attack.training_set(given, bases, sources, poisons)
    rows = torch.arange(len(stored) - len(poisons), len(stored))
    torch.testing.assert_close(stored.read(rows), poisons, rtol=0, atol=1e-6)


def test_labels_stay_true_and_crafting_images_are_left_out():
    given = setting()
    attack = HTBA(fast())
    bases, sources = attack.choose(given)
    assert (given.train.labels[bases] == TARGET).all()
    assert not (given.train.labels[sources] == TARGET).any()
    assert len(bases) == len(sources) == round(0.5 * int((given.train.labels == TARGET).sum()))
    assert len(bases.unique()) == len(bases)
    assert len(sources.unique()) == len(sources)
    images = attack.training_set(given, bases, sources, torch.zeros(len(bases), 3, 16, 16))
    assert len(images) == len(given.train) - len(sources)
    assert (images.labels[-len(bases) :] == TARGET).all()
    kept = HTBA(fast(disjoint=False)).training_set(given, bases, sources, torch.zeros(len(bases), 3, 16, 16))
    assert len(kept) == len(given.train) + len(bases)


def test_head_only_changes_the_head_alone():
    before = setting().teacher.state_dict()
    after = HTBA(fast(head_only=True)).implant(setting()).teacher
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert len(changed) <= 2


def test_source_class():
    given = setting()
    _, sources = HTBA(fast(source=3)).choose(given)
    assert (given.train.labels[sources] == 3).all()
    with pytest.raises(ConfigError, match="source"):
        HTBA(fast(source=TARGET)).choose(given)


def test_implant_is_repeatable_and_reports():
    one, two = (HTBA(fast(iterations=5)).implant(setting(seed=2)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.teacher.parameters(), two.teacher.parameters(), strict=True))
    assert one.facts["feature_distance_after"] < one.facts["feature_distance_before"]
    assert not one.teacher.training
    assert 0 <= success_rate(one.teacher, one.trigger, 200) <= 100
