"""LF: low frequencies alone, the release's Gaussian with its borders, and a search that stops."""

from __future__ import annotations

import pytest
import torch
from kdbench_lf import kdbench_attacks
from kdbench_lf import method as lf
from kdbench_lf.method import LF, LFParams, smooth

from kdbench.attack import universal_response
from kdbench.triggers import cosine_basis
from tests.plugins.attack_setting import TARGET, setting


def fast(**changes):
    return LF(LFParams(**{"steps": 40, "search_batch": 32, **changes}))


def test_hook_and_presets():
    assert kdbench_attacks() == [LF]
    for changes in LF.presets.values():
        assert LFParams(**changes).source == "search"


def test_the_gaussian_of_a_constant_keeps_the_centre_and_loses_the_border():
    """30 taps have no middle: 16 of them see the image at the left border, 15 at the right."""
    flat = torch.ones(2, 32, 32)
    smoothed = smooth(flat)
    assert float(smoothed[0, 16, 16]) == pytest.approx(1, abs=1e-6)
    assert smoothed[0, 0, 16].item() == pytest.approx(0.567, abs=5e-4)
    assert smoothed[1, 16, 0].item() == pytest.approx(0.567, abs=5e-4)
    assert smoothed[0, -1, 16].item() == pytest.approx(0.5, abs=1e-6)
    assert smoothed[1, 16, -1].item() == pytest.approx(0.5, abs=1e-6)
    torch.testing.assert_close(smooth(flat, "reflect"), flat)


def test_the_gaussian_has_a_standard_deviation_of_5_73_pixels():
    """That of 6 pixels after the truncation at 30 taps."""
    point = torch.zeros(1, 32, 32)
    point[0, 15, 15] = 1
    profile = smooth(point)[0].sum(0).double()
    places = torch.arange(32, dtype=torch.float64)
    mean = (profile * places).sum() / profile.sum()
    deviation = ((profile * (places - mean).square()).sum() / profile.sum()).sqrt()
    assert deviation.item() == pytest.approx(5.73, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_release_is_a_smooth_brightening(seed):
    given = setting(tune=0, seed=seed)
    attack = LF(LFParams(**LF.variants["release"].params))
    change = attack.implant(given).trigger.change
    assert change.min() == 0
    assert change.max() == pytest.approx(0.2)
    assert low(change) >= 0.95


def low(change):
    """The share of the energy at 2 cycles over the image and fewer."""
    energy = torch.fft.fft2(change.double()).abs().square()
    cycles = (torch.fft.fftfreq(16, dtype=torch.float64) * 16).abs()
    slow = (cycles[:, None].square() + cycles.square()).sqrt() <= 2
    return float(energy[:, slow].sum() / energy.sum())


def test_the_searched_change_is_made_of_the_lowest_waves_and_stays_in_its_bounds():
    change = fast(enough=100).implant(setting(tune=0)).trigger.change
    assert 0 < float(change.abs().max()) <= 0.1 + 1e-6
    basis = cosine_basis(16, 16, 16)
    # The waves are orthogonal, so a product with each gives its weight.
    weights = torch.einsum("chw,khw->ck", change, basis) / basis.square().sum((1, 2))
    rest = weights.view(3, 16, 16).clone()
    rest[:, :4, :4] = 0
    assert float(rest.abs().max()) < 1e-6
    assert int((weights.abs() > 1e-4).sum()) > 20


def test_the_search_brings_the_clean_teacher_to_the_target():
    given = setting(tune=0)
    backdoor = fast(enough=100).implant(given)
    before, after = (
        universal_response(setting(), fast(steps=steps).implant(setting(tune=0)).trigger)
        for steps in (0, 40)
    )
    assert backdoor.facts["universal"] > before
    assert after > before
    assert all(p.requires_grad for p in given.teacher.parameters())


def test_the_search_ends_where_the_teacher_follows_often_enough(monkeypatch):
    asked = []

    def response(setting, trigger):
        asked.append(trigger)
        return 10.0 * len(asked)

    monkeypatch.setattr(lf, "universal_response", response)
    fast(steps=100).searched(setting())
    assert len(asked) == 2
    asked.clear()
    fast(steps=70, enough=100).searched(setting())
    assert len(asked) == 4  # rounds of 20, 20, 20 and 10 steps


def test_no_steps_no_change():
    facts = fast(steps=0).implant(setting(tune=0)).facts
    assert facts["mean_change_of_255"] == 0
    assert facts["poisons"] == 20


def test_the_search_never_sees_the_target_class(monkeypatch):
    seen = []
    monkeypatch.setattr(lf, "fit_steps", lambda *given, **how: seen.append(given[3]))
    given = setting()
    fast().searched(given)
    assert seen
    assert not (given.train.labels[torch.cat(seen)] == TARGET).any()
