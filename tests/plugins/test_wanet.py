"""WaNet: one smooth field, against hand-computed values."""

from __future__ import annotations

import torch
from kdbench_wanet import kdbench_attacks
from kdbench_wanet.method import WaNet, WaNetParams, WarpTrigger, identity, smooth_field, warp

from tests.plugins.attack_setting import TARGET, built_sets, setting


def test_hook_returns_the_class():
    assert kdbench_attacks() == [WaNet]


def implanted(**params):
    return WaNet(WaNetParams(**params)).implant(setting(tune=0))


def test_without_strength_an_image_stays_as_it_is():
    images = torch.rand(4, 3, 16, 16)
    trigger = implanted(strength=0).trigger
    torch.testing.assert_close(trigger(images), images, rtol=0, atol=1e-6)


def test_columns_are_columns_and_rows_are_rows():
    grid = identity(3, 5)
    assert grid[0, :, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert grid[:, 0, 1].tolist() == [-1, 0, 1]


def test_a_ramp_is_shifted_by_the_displacement():
    """s n (H - 1) / (2 H) pixels: 0.2422 n at 32x32 for s = 0.5. A ramp of one unit a column shows
    it."""
    n, side = 0.8, 32
    field = torch.zeros(side, side, 2)
    field[..., 0] = n
    trigger = WarpTrigger((identity(side, side) + 0.5 * field / side).clamp(-1, 1))
    ramp = (torch.arange(side) / side).expand(1, 3, side, side)
    moved = (trigger(ramp) - ramp)[..., 1:-2] * side
    torch.testing.assert_close(moved, torch.full_like(moved, 0.2421875 * n), rtol=0, atol=1e-4)


def test_the_control_points_have_a_mean_size_of_one():
    # At k x k pixels the enlarged field is the control points themselves.
    field = smooth_field(4, 4, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(field.abs().mean(), torch.tensor(1.0))


def test_the_grid_stays_within_the_image():
    grid = implanted(strength=50).trigger.grid
    assert (grid.min(), grid.max()) == (-1, 1)


def test_poison_and_decoys(monkeypatch):
    built = built_sets(monkeypatch)
    facts = implanted(poison_rate=0.1).facts
    assert (facts["poisons"], facts["decoys"]) == (20, 40)
    (poisoned,) = built
    labels = poisoned.images.labels
    assert not (labels[poisoned.is_poison] == TARGET).any()
    assert not (poisoned.is_poison & poisoned.is_decoy).any()
    batch = poisoned.probe(200, torch.device("cpu"))
    plain = poisoned.images.read(batch.positions)
    decoys = poisoned.is_decoy
    assert torch.equal(batch.labels[decoys], labels[decoys])
    assert torch.equal(
        batch.images[poisoned.is_poison], poisoned.trigger(plain)[poisoned.is_poison]
    )
    # A decoy is the triggered image with noise of its own: neither that image, nor the plain one.
    shown = batch.images[decoys]
    for other in (plain[decoys], poisoned.trigger(plain[decoys])):
        assert ((shown - other).abs().amax((1, 2, 3)) > 1e-3).all()
    again = poisoned.probe(200, torch.device("cpu")).images[decoys]
    assert not torch.equal(shown, again), "the noise is drawn anew"


def test_without_decoys():
    assert implanted(decoy_rate=0).facts["decoys"] == 0


def test_warping_is_bilinear_and_dark_outside():
    image = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 3, 2, 2)
    halfway = torch.zeros(1, 2, 2, 2)
    assert torch.equal(warp(image, halfway), torch.full((1, 3, 2, 2), 0.5))
    assert warp(image, halfway + 3).max() == 0
