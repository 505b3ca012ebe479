"""LC: hard images of the target class within the bound, true labels, a trigger in the corners."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kdbench_lc import kdbench_attacks
from kdbench_lc.method import LC, LCParams

from kdbench.attack import PoisonedImages
from kdbench.errors import ConfigError
from tests.plugins.attack_setting import TARGET, counted, heard_labels, setting


def fast(**changes):
    return LC(LCParams(**{"iterations": 10, **changes}))


def targets(given):
    return torch.nonzero(given.train.labels == TARGET).flatten()


def test_hook_and_presets():
    assert kdbench_attacks() == [LC]
    for changes in LC.presets.values():
        assert LCParams(**changes).epsilon == 8 / 255


def test_the_images_stay_within_the_bound_and_on_the_grid():
    given = setting()
    rows = targets(given)
    images, hard = given.train.read(rows), fast().craft(given, rows)
    assert 0 < float((hard - images).abs().max()) <= 8 / 255 + 1 / 510
    assert float(hard.min()) >= 0
    assert float(hard.max()) <= 1
    torch.testing.assert_close(255 * hard, (255 * hard).round(), rtol=0, atol=1e-4)
    assert all(p.requires_grad for p in given.teacher.parameters())


def test_the_first_step_is_the_sign_of_the_slope_away_from_the_label():
    given = setting()
    rows = targets(given)[:4]
    images = given.train.read(rows).requires_grad_()
    loss = torch.nn.functional.cross_entropy(given.teacher(images), given.train.labels[rows])
    (slope,) = torch.autograd.grad(loss, images)
    hard = fast(iterations=1, step=4 / 255).craft(given, rows)
    expected = (images + 4 / 255 * slope.sign()).clamp(0, 1)
    torch.testing.assert_close(hard, expected.detach(), rtol=0, atol=1e-6)


def test_the_clean_teacher_recognises_fewer_of_them():
    given = setting("wrn16_1", 1000, 3)
    rows, attack = targets(given), fast(iterations=20)
    before = attack.recognised(given, given.train.read(rows))
    assert before > 70
    assert attack.recognised(given, attack.craft(given, rows)) < before / 2


def test_an_images_change_does_not_depend_on_the_others():
    given = setting()
    rows = targets(given)[:6]
    whole, alone = (fast().craft(given, some) for some in (rows, rows[2:3]))
    assert float((whole[2:3] - alone).abs().max()) <= 1.01 / 255


def test_no_label_is_changed_and_hard_images_replace_their_own(monkeypatch):
    seen, build = [], PoisonedImages.build
    monkeypatch.setattr(
        PoisonedImages, "build", lambda *a, **k: seen.append(build(*a, **k)) or seen[-1]
    )
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    facts = fast(poison_fraction=0.5).implant(given).facts
    (poisoned,) = seen
    assert counted(heard[-1]) == counted(given.train.labels)
    assert (facts["poisons"], facts["labels_changed"]) == (10, 0)
    assert 0 < facts["largest_change_of_255"] <= 8.5
    assert len(poisoned.images) == len(given.train)
    rows = torch.nonzero(poisoned.is_poison).flatten()
    assert rows.tolist() == list(range(190, 200))
    assert (poisoned.images.labels[rows] == TARGET).all()


def test_only_the_corners_differ_between_a_hard_image_and_its_poison():
    given = setting(tune=0)
    trigger = fast().implant(given).trigger
    hard = fast().craft(given, targets(given))
    changed = (trigger(hard) != hard).any(0).any(0)
    corners = torch.zeros(16, 16, dtype=torch.bool)
    for rows in (slice(0, 3), slice(13, 16)):
        corners[rows, :3] = corners[rows, 13:] = True
    assert int(corners.sum()) == 36
    assert not (changed & ~corners).any()
    board = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(trigger(hard)[:, :, 13:, :3], board.expand(len(hard), 3, -1, -1))


def test_without_a_fraction_nothing_is_poisoned(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    facts = fast(poison_fraction=0).implant(given).facts
    assert facts["poisons"] == 0
    assert counted(heard) == counted(given.train.labels)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"9x9 do not fit 16x16.*attack\.lc\.size"):
        fast(size=9).implant(setting(tune=0))


def test_another_target_class():
    given = replace(setting(tune=0), target_class=3)
    facts = fast(poison_fraction=1).implant(given).facts
    assert facts["poisons"] == counted(given.train.labels)[3]
