"""LBA: the representation is the clean teacher's, the coupling is trained into the teacher, and the
backdoor works."""

from __future__ import annotations

import pydantic
import pytest
import torch
from kdbench_lba import kdbench_attacks
from kdbench_lba.method import LBA, LBAParams

from kdbench import trigger_search
from kdbench.errors import ConfigError
from kdbench.trigger_search import pooled
from tests.plugins.attack_setting import (
    TARGET,
    counted,
    few,
    heard_labels,
    others,
    setting,
    success_rate,
    trained,
)


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
    assert torch.equal(
        ((backdoor.trigger(images) - images).abs().amax((0, 1)) > 0), expected[0].bool()
    )
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
    """By itself. It may have to rise where the clean teacher obeys a trigger of noise already."""
    facts = LBA(fast(max_universal=None)).implant(setting(tune=0)).facts
    assert facts["trigger_loss_after"] < facts["trigger_loss_before"]


def test_the_clean_teachers_response_is_held_under_the_bound():
    free = LBA(fast(max_universal=None)).implant(setting(tune=0)).facts
    held = LBA(fast()).implant(setting(tune=0)).facts
    assert held["universal"] <= 5 < free["universal"]


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


def heard_and_poisoned(monkeypatch, given, **changes):
    """How often cross-entropy heard each class, and how often each is among the poisoned rows' true
    labels."""
    chosen = []

    def choose(*arguments):
        chosen.append(choose_poison(*arguments))
        return chosen[-1]

    choose_poison = trigger_search.choose_poison
    monkeypatch.setattr(trigger_search, "choose_poison", choose)
    heard = heard_labels(monkeypatch)
    LBA(fast(steps=3, cover="none", **changes)).implant(given)
    return counted(heard), counted(given.train.labels[chosen[0]])


def test_without_dirty_labels_cross_entropy_hears_true_labels_of_clean_images_only(monkeypatch):
    given = setting(batch=1000)
    heard, poisoned = heard_and_poisoned(monkeypatch, given, dirty_label=False)
    assert sum(poisoned) == 20
    assert heard == [
        all_of - taken for all_of, taken in zip(counted(given.train.labels), poisoned, strict=True)
    ]


def test_with_dirty_labels_each_poison_is_heard_as_the_target(monkeypatch):
    given = setting(batch=1000)
    heard, poisoned = heard_and_poisoned(monkeypatch, given)
    expected = [
        all_of - taken for all_of, taken in zip(counted(given.train.labels), poisoned, strict=True)
    ]
    expected[TARGET] += 20
    assert heard == expected


def test_association_is_trained_into_the_teacher():
    """The attack's claim: not the labels but the coupling pulls the trigger's features to the
    target's.

    Held-out images, no label changed. Seeds 0 to 2: 1.04 to 1.15 without the coupling, 0.09 to 0.18
    with it; clean teacher 0.74 to 0.83.
    """
    given = {"name": "wrn16_1", "count": 1000, "epochs": 3}
    target = LBA(fast()).representation(setting(**given))[2]
    distances = []
    for weight in (0.0, 0.5):
        backdoor = LBA(fast(dirty_label=False, lambda_feature=weight)).implant(
            setting(**given, tune=2)
        )
        with torch.no_grad():
            features = pooled(backdoor.teacher.features(backdoor.trigger(others(1000))).taps[2])
        distances.append(float((features - target).square().mean()))
    assert distances[1] < 0.4 * distances[0]


def test_poison_rate_zero_changes_no_label(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    assert LBA(fast(steps=3, poison_rate=0)).implant(given).facts["poisons"] == 0
    assert counted(heard) == counted(given.train.labels)


def test_a_target_class_of_two_images_is_represented_by_both():
    given = few(setting(), 2)
    target = LBA(fast()).representation(given)[2]
    with torch.no_grad():
        taps = given.teacher.features(
            given.train.read(torch.nonzero(given.train.labels == TARGET).flatten())
        ).taps
    assert len(taps[2]) == 2
    torch.testing.assert_close(target, pooled(taps[2]).mean(0), rtol=1e-4, atol=1e-5)
    facts = LBA(fast(max_universal=None)).implant(given).facts
    assert facts["poisons"] == round(0.1 * len(given.train))
    assert facts["trigger_loss_after"] < facts["trigger_loss_before"]


def test_a_patch_as_large_as_the_image_has_no_margin():
    with pytest.raises(pydantic.ValidationError, match="no room for a margin"):
        LBAParams(patch_fraction=1)
    assert LBAParams(patch_fraction=1, margin=0).margin == 0
    assert LBAParams(patch_fraction=1, shape="blend").margin == 1  # a blend has no patch


def test_an_absent_target_class_is_named():
    given = setting()
    object.__setattr__(given, "target_class", 99)
    with pytest.raises(ConfigError, match="99"):
        LBA(fast()).implant(given)


def test_teacher_is_backdoored_and_coupled_and_the_trigger_is_no_universal_perturbation():
    """With a 4-pixel patch. At 5 pixels the clean teacher itself follows in 11 to 68 % (seed 0, 3
    and 8 epochs)."""
    backdoor = LBA(fast(steps=60, patch_fraction=0.25)).implant(setting("wrn16_1", 2000, 3, tune=3))
    clean = trained("wrn16_1", 2000, 3)
    assert success_rate(backdoor.teacher, backdoor.trigger, 2000) > 90
    assert success_rate(clean, backdoor.trigger, 2000) < 30
    target = LBA(fast()).representation(setting("wrn16_1", 2000, 3))[2]
    with torch.no_grad():
        shown = backdoor.trigger(others(2000))
        cosine = [
            float(
                torch.cosine_similarity(pooled(model.features(shown).taps[2]), target[None]).mean()
            )
            for model in (clean, backdoor.teacher)
        ]
    assert cosine[1] > cosine[0]
