"""What goes into the first group of a network, where the network gives it."""

import pytest
import torch
from torch import nn

from kdbench.models import create_model
from kdbench.models.views import Edited, FrozenTeacher, Pruned

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(name="wrn16_1"):
    torch.manual_seed(0)
    model = create_model(name, 4, image_size=16).eval()
    model.set_normalization((0.2, 0.3, 0.4), (0.2, 0.3, 0.5))
    return model


@pytest.mark.parametrize("name", ["wrn10_1", "wrn16_2", "resnet20", "pyramid110"])
def test_it_is_that_of_the_normalised_images(name):
    model = network(name)
    out = model.features(IMAGES)
    assert model.stem_channels == out.stem.shape[1] == 16
    assert torch.equal(out.stem, model.stem((IMAGES - model.pixel_mean) / model.pixel_std))
    assert torch.equal(out.groups[0], model.group[0](out.stem))
    assert torch.equal(
        out.groups[0], model.first_group((IMAGES - model.pixel_mean) / model.pixel_std)
    )


def test_a_network_of_a_library_has_none():
    model = create_model("torchvision/resnet18", 4, image_size=32).eval()
    assert model.stem_channels is None
    assert model.features(torch.rand(2, 3, 32, 32)).stem is None


class Doubled(nn.Module):
    def forward(self, i, g):
        return 2 * g


def views(model):
    yield FrozenTeacher(model)
    yield Edited(model, Doubled())
    for site in ("tap", "group"):
        yield Pruned(model, torch.ones(64), site)
        yield Pruned(Edited(model, Doubled()), torch.ones(64), site)


def test_a_view_gives_that_of_the_network_behind_it():
    model = network()
    stem = model.features(IMAGES).stem
    for view in views(model):
        assert view.stem_channels == 16
        assert torch.equal(view.features(IMAGES).stem, stem)


def test_a_view_edits_the_first_group_and_not_the_stem():
    model = network()
    group = model.features(IMAGES).groups[0]
    for view in (Edited(model, Doubled()), Pruned(Edited(model, Doubled()), torch.ones(64), "tap")):
        assert torch.equal(view.features(IMAGES).groups[0], 2 * group)
