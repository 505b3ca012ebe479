"""LBA: the representation is the clean teacher's, the coupling is trained into the teacher, and the backdoor works."""

from __future__ import annotations

import pytest
import torch
from kdbench_lba import kdbench_attacks
from kdbench_lba.method import LBA, LBAParams

from kdbench.errors import ConfigError
from kdbench.trigger_search import pooled
from tests.plugins.attack_setting import TARGET, others, setting, success_rate, trained


def fast(**changes):
    return LBAParams(**{"steps": 30, "lr": 0.05, "search_batch": 32, **changes})


def test_hook_and_presets():
    assert kdbench_attacks() == [LBA]
    for changes in LBA.presets.values():
        LBAParams(**changes)


def test_patch_lies_in_the_corner_with_a_margin():
    backdoor = LBA(fast(patch_fraction=0.3)).implant(setting(tune=0))
    expected = torch.zeros(1, 16, 16)
    expected[:, 10:15, 10:15] = 1
    assert torch.equal(backdoor.trigger.mask, expected)
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(((backdoor.trigger(images) - images).abs().amax((0, 1)) > 0), expected[0].bool())
    assert float(backdoor.trigger.pattern.min()) >= 0
    assert float(backdoor.trigger.pattern.max()) <= 1


def test_blend_stays_in_its_bounds():
    mask = LBA(fast(shape="blend", kappa=0.1)).implant(setting(tune=0)).trigger.mask
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 0.1 + 1e-6


def test_representation_is_the_clean_teachers_mean():
    given = setting()
    target = LBA(fast(target_images=10_000)).representation(given)
    rows = torch.nonzero(given.train.labels == TARGET).flatten()
    with torch.no_grad():
        taps = given.teacher.eval().features(given.train.read(rows)).taps
    for r, tap in zip(target, taps, strict=True):
        assert not r.requires_grad
        torch.testing.assert_close(r, pooled(tap).mean(0), rtol=1e-4, atol=1e-5)


def test_trigger_loss_falls():
    facts = LBA(fast()).implant(setting(tune=0)).facts
    assert facts["trigger_loss_after"] < facts["trigger_loss_before"]


def test_search_never_sees_the_target_class():
    given = setting(tune=0)
    seen = []
    subset = type(given.train).subset

    class Watched(type(given.train)):
        def subset(self, indices):
            seen.append(self.labels[indices])
            return subset(self, indices)

    watched = given.train.subset(torch.arange(len(given.train)))
    watched.__class__ = Watched
    object.__setattr__(given, "train", watched)
    LBA(fast(steps=3, cover="none")).implant(given)
    assert seen
    assert not any((labels == TARGET).any() for labels in seen)


def test_without_dirty_labels_no_label_changes():
    """The classifier may follow the features, but cross-entropy never hears of the target label."""
    backdoor = LBA(fast(dirty_label=False, lambda_feature=0.0)).implant(setting("wrn16_1", 1000, 3))
    clean = trained("wrn16_1", 1000, 3)
    assert success_rate(backdoor.teacher, backdoor.trigger, 1000) < success_rate(clean, backdoor.trigger, 1000) + 15


def test_an_absent_target_class_is_named():
    given = setting()
    object.__setattr__(given, "target_class", 99)
    with pytest.raises(ConfigError, match="99"):
        LBA(fast()).implant(given)


def test_teacher_is_backdoored_and_coupled_and_the_trigger_is_no_universal_perturbation():
    """With a 4-pixel patch. At 5 pixels the clean teacher itself follows in 11 to 68 % (seed 0, 3 and 8 epochs)."""
    backdoor = LBA(fast(steps=60, patch_fraction=0.25)).implant(setting("wrn16_1", 2000, 3, tune=3))
    clean = trained("wrn16_1", 2000, 3)
    assert success_rate(backdoor.teacher, backdoor.trigger, 2000) > 90
    assert success_rate(clean, backdoor.trigger, 2000) < 30
    target = LBA(fast()).representation(setting("wrn16_1", 2000, 3))[2]
    with torch.no_grad():
        shown = backdoor.trigger(others(2000))
        cosine = [
            float(torch.cosine_similarity(pooled(model.features(shown).taps[2]), target[None]).mean())
            for model in (clean, backdoor.teacher)
        ]
    assert cosine[1] > cosine[0]
