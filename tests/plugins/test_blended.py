"""Blended: the mix, its distance, a smooth picture, and only the requested images."""

from __future__ import annotations

import pytest
import torch
from kdbench_blended import kdbench_attacks
from kdbench_blended.method import Blended, BlendedParams

from kdbench.attack import universal_response
from tests.plugins.attack_setting import TARGET, counted, heard_labels, setting, success_rate


def trigger(**changes):
    return Blended(BlendedParams(**changes)).implant(setting(tune=0)).trigger


def test_hook_and_presets():
    assert kdbench_attacks() == [Blended]
    for changes in Blended.presets.values():
        assert BlendedParams(**changes).alpha == 0.2


@pytest.mark.parametrize("pattern", ["smooth", "noise"])
def test_the_distance_to_the_image_is_alpha_times_that_of_the_picture(pattern):
    blended, images = trigger(pattern=pattern), torch.rand(8, 3, 16, 16)
    change = (blended(images) - images).abs()
    assert float(change.max()) <= 0.2
    torch.testing.assert_close(change.mean(), 0.2 * (blended.pattern - images).abs().mean())
    # Twice blended is not once blended.
    assert not torch.allclose(blended(blended(images)), blended(images), atol=0.01)


def test_an_opacity_of_0_is_the_image_and_of_1_the_picture():
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(trigger(alpha=0)(images), images)
    whole = trigger(alpha=1)
    assert torch.equal(whole(images), whole.pattern.expand(4, -1, -1, -1))


def test_a_smooth_picture_has_no_wave_of_more_than_four_cycles():
    """In the cosine transform, whose wave k has k / 2 cycles. Noise has all of them alike."""
    numbers = torch.arange(16, dtype=torch.float64)
    waves = (torch.pi / 32 * numbers[:, None] * (2 * numbers + 1)).cos()

    def fast(picture):
        energy = (waves @ picture.double() @ waves.T).square()
        return float(energy[:, 9:, :].sum() + energy[:, :9, 9:].sum()) / float(energy.sum())

    smooth = trigger().pattern
    assert fast(smooth) < 1e-10
    assert fast(trigger(pattern="noise").pattern) > 0.02
    assert smooth.amin((1, 2)).tolist() == [0, 0, 0]
    assert smooth.amax((1, 2)).tolist() == [1, 1, 1]


def test_another_seed_another_picture():
    one, two = (Blended().implant(setting(tune=0, seed=seed)).trigger for seed in (0, 1))
    assert not torch.equal(one.pattern, two.pattern)


def test_the_constant_opacity_is_about_the_mean_of_ckd_releases():
    """Which blends at min(U, 0.2): E = 0.2 - 0.2^2 / 2."""
    draws = torch.rand(100_000, generator=torch.Generator().manual_seed(0)).clamp(max=0.2)
    assert float(draws.mean()) == pytest.approx(0.18, abs=1e-3)
    facts = Blended().implant(setting(tune=0)).facts
    assert facts["mean_opacity"] == 0.2
    assert facts["poisons"] == 20
    assert "labels_changed" not in facts


def test_only_the_asked_labels_are_changed(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    backdoor = Blended(BlendedParams(poison_rate=0.1)).implant(given)
    before, after = counted(given.train.labels), counted(heard)
    assert after[TARGET] == before[TARGET] + 20
    assert sum(before) == sum(after)
    assert backdoor.facts["universal"] == universal_response(setting(), backdoor.trigger)


def test_backdoor_works():
    """At a strong setting, since 100 steps are few for a picture of opacity 0.2."""
    strong = BlendedParams(alpha=0.5, poison_rate=0.3)
    backdoor = Blended(strong).implant(setting("wrn16_1", 1000, 3, tune=5))
    assert success_rate(backdoor.teacher, backdoor.trigger, 1000) > 70
