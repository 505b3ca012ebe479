"""Shared triggers: the mix, where the rectangle lies, and that pixel space and normalised space are
one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.errors import ConfigError
from kdbench.models.files import load_module, save_module
from kdbench.triggers import (
    AddTrigger,
    BlendTrigger,
    NetworkTrigger,
    PatchTrigger,
    cosine_basis,
    stretched,
)


def test_blend_by_hand():
    mask = torch.tensor([[[0.0, 1.0, 0.25]]])
    shown = BlendTrigger(torch.full((3, 1, 3), 0.9), mask)(torch.full((2, 3, 1, 3), 0.1))
    torch.testing.assert_close(shown, torch.tensor([0.1, 0.9, 0.3]).expand(2, 3, 1, 3))
    # where nothing is mixed in, the very same bits
    assert (shown[..., 0] == torch.tensor(0.1)).all()
    assert (shown[..., 1] == torch.tensor(0.9)).all()


def test_pixel_space_equals_the_releases_normalised_space():
    """They blend (x - mu) / sigma with tau; that is x blended with sigma tau + mu."""
    generator = torch.Generator().manual_seed(0)
    images, tau, mask = (
        torch.rand(*shape, generator=generator) for shape in ((4, 3, 8, 8), (3, 8, 8), (1, 8, 8))
    )
    mean = torch.tensor([125.3, 123.0, 113.9]).view(3, 1, 1) / 255
    std = torch.tensor([63.0, 62.1, 66.7]).view(3, 1, 1) / 255
    shown = BlendTrigger(std * tau + mean, mask)(images)
    released = (1 - mask) * ((images - mean) / std) + mask * tau
    torch.testing.assert_close(shown, released * std + mean, rtol=0, atol=1e-6)


def test_patch_keeps_its_distance_to_the_corner():
    shown = PatchTrigger(torch.ones(3, 2, 3), (3, 8, 8), margin=1, opacity=0.5)(
        torch.zeros(1, 3, 8, 8)
    )
    expected = torch.zeros(8, 8)
    expected[5:7, 4:7] = 0.5
    assert torch.equal(shown, expected.expand(1, 3, 8, 8))


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="3x3 patch with margin 6 does not fit 8x8"):
        PatchTrigger(torch.ones(3, 3, 3), (3, 8, 8), margin=6)


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))


def test_a_network_as_trigger_shows_an_image_the_same_alone_and_in_a_batch():
    trigger = NetworkTrigger(small_network()).train()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = trigger(images)
    alone = torch.cat([trigger(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-7)
    assert (together.dtype, together.requires_grad) == (torch.float32, False)
    assert 0 <= together.min() <= together.max() <= 1
    assert not any(module.training for module in trigger.modules())


def test_a_network_as_trigger_is_kept_in_a_file(tmp_path):
    trigger = NetworkTrigger(small_network())
    save_module(trigger, tmp_path / "trigger.safetensors")
    restored, _ = load_module(tmp_path / "trigger.safetensors")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(restored.train()(images), trigger(images))


def test_add_by_hand():
    trigger = AddTrigger(torch.tensor([0.1, -0.1, 0.1]).view(3, 1, 1))
    shown = trigger(torch.tensor([0.5, 0.05, 1.0]).view(1, 3, 1, 1))
    torch.testing.assert_close(shown.flatten(), torch.tensor([0.6, 0.0, 1.0]))
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(AddTrigger(torch.zeros(3, 4, 4))(images), images)


def test_the_waves_are_those_of_the_cosine_transform():
    basis = cosine_basis(3, 4, 8).view(3, 3, 4, 8)
    assert torch.equal(basis[0, 0], torch.ones(4, 8))
    # cos(pi (2i + 1) / 8), down the rows alone
    column = torch.tensor([0.92388, 0.38268, -0.38268, -0.92388])
    torch.testing.assert_close(basis[1, 0], column[:, None].expand(4, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis[1, 2], basis[1, 0] * basis[0, 2])
    products = torch.einsum("ahw,bhw->ab", basis.flatten(0, 1), basis.flatten(0, 1))
    assert float((products - products.diag().diag()).abs().max()) < 1e-5


def test_stretched_by_hand():
    assert stretched(torch.tensor([-1.0, 0.0, 3.0])).tolist() == [0.0, 0.25, 1.0]
    assert stretched(torch.full((2,), 5.0)).tolist() == [0.0, 0.0]
