"""What the linear classifier takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.models import create_model
from kdbench.models.views import Edited, FrozenTeacher, Pruned


class Nothing(nn.Module):
    def forward(self, i, g):
        return g


@pytest.mark.parametrize("name", ["wrn10_1", "resnet20"])
def test_the_linear_layer_makes_the_logits_of_it(name):
    model = create_model(name, 5).eval()
    out = model.features(torch.rand(3, 3, 16, 16))
    torch.testing.assert_close(model.fc(model.pooled(out)), out.logits)


def test_every_view_of_a_network_has_it():
    model = create_model("wrn10_1", 5).eval()
    images = torch.rand(3, 3, 16, 16)
    wanted = model.pooled(model.features(images))
    for view in (Edited(model, Nothing()).eval(), Pruned(model, torch.ones(64), "tap").eval()):
        torch.testing.assert_close(view.pooled(view.features(images)), wanted)
    frozen = FrozenTeacher(model)
    torch.testing.assert_close(frozen.pooled(frozen.features(images)), wanted)


def test_of_a_library_s_network_it_is_the_mean_of_the_last_group():
    model = create_model("torchvision/resnet18", 5, image_size=32).eval()
    out = model.features(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(model.pooled(out), out.groups[-1].mean((2, 3)))
