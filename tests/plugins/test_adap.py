"""Adap-Blend and Adap-Patch: parts in training, the whole in the test."""

from __future__ import annotations

import pytest
import torch
from kdbench_adap import kdbench_attacks
from kdbench_adap.method import AdapBlend, AdapBlendParams, AdapPatch, AdapPatchParams

from tests.plugins.attack_setting import TARGET, built_sets, setting


def test_hook_returns_the_classes():
    assert kdbench_attacks() == [AdapBlend, AdapPatch]


@pytest.fixture
def poisoned(monkeypatch):
    """Implants, and returns the poisoned set that the teacher was trained on."""
    built = built_sets(monkeypatch)

    def implant(attack):
        backdoor = attack.implant(setting(tune=0))
        return built[-1], backdoor

    return implant


def test_each_image_has_half_of_the_tiles(poisoned):
    images, backdoor = poisoned(AdapBlend(AdapBlendParams(poison_rate=0.2)))
    batch = images.probe(200, torch.device("cpu"))
    plain = images.images.read(batch.positions)
    changed = images.is_poison | images.is_decoy
    moved = (batch.images != plain).any(1)[changed].float()  # (N, 16, 16)
    tiles = moved.unflatten(2, (4, 4)).unflatten(1, (4, 4)).amax((2, 4)).flatten(1)
    assert (tiles.sum(1) == 8).all()
    assert (tiles.sum(0) > 0).all(), "no tile is never shown"
    assert torch.equal(batch.images[~changed], plain[~changed])
    # Where a tile is, the image is that of the test.
    whole = backdoor.trigger(plain[changed])
    mask = tiles.bool().view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(batch.images[changed], torch.where(mask, whole, plain[changed]))


def test_the_whole_picture_is_blended_in_the_test():
    trigger = AdapBlend(AdapBlendParams(alpha=0.2)).implant(setting(tune=0)).trigger
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(trigger(images), 0.8 * images + 0.2 * trigger.pattern)


def test_an_image_has_the_same_part_whenever_it_is_shown(poisoned):
    images, _ = poisoned(AdapBlend())
    first, second = (images.probe(200, torch.device("cpu")).images for _ in range(2))
    assert torch.equal(first, second)


def test_patches_are_faint_in_training_and_two_are_opaque_in_the_test(poisoned):
    images, backdoor = poisoned(AdapPatch(AdapPatchParams(poison_rate=0.2)))
    assert (backdoor.facts["poisons"], backdoor.facts["decoys"]) == (40, 80)
    batch = images.probe(200, torch.device("cpu"))
    plain = images.images.read(batch.positions)
    pattern = backdoor.trigger.pattern
    corners = [(slice(0, 4), slice(0, 4)), (slice(0, 4), slice(12, 16))]
    corners += [(slice(12, 16), slice(0, 4)), (slice(12, 16), slice(12, 16))]
    counts = []
    for (rows, columns), opacity in zip(corners, (0.5, 0.2, 0.5, 0.3), strict=True):
        here = (batch.images != plain)[:, :, rows, columns].any(3).any(2).any(1)
        expected = (1 - opacity) * plain[..., rows, columns] + opacity * pattern[:, rows, columns]
        torch.testing.assert_close(batch.images[here][..., rows, columns], expected[here])
        counts.append(int((here & images.is_poison).sum()))
    assert counts == [10, 10, 10, 10], "in equal shares"
    shown = backdoor.trigger(plain)
    for number in (0, 2):
        rows, columns = corners[number]
        assert (shown[..., rows, columns] == pattern[:, rows, columns]).all()
    rows, columns = corners[1]
    assert torch.equal(shown[..., rows, columns], plain[..., rows, columns])


@pytest.mark.parametrize("attack", [AdapBlend, AdapPatch])
def test_decoys_keep_their_label_and_are_no_poison(poisoned, attack):
    images, _ = poisoned(attack())
    batch = images.probe(200, torch.device("cpu"))
    labels = images.images.labels
    assert torch.equal(batch.labels[images.is_decoy], labels[images.is_decoy])
    assert (batch.labels[images.is_poison] == TARGET).all()
    assert not (labels[images.is_poison] == TARGET).any()
    assert not (images.is_poison & images.is_decoy).any()


def test_the_rates_of_the_paper():
    assert AdapBlendParams(**AdapBlend.presets["paper"]).poison_rate == 0.003
    assert AdapPatchParams(**AdapPatch.presets["paper"]).decoy_rate == 2
