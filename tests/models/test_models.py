"""Networks: exact sizes, taps before the ReLU, edits that reach everything downstream and nothing
upstream."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.errors import ConfigError, UnknownMethodError
from kdbench.models import create_model, model_names, split_pair
from kdbench.models.pyramid import BasicBlock
from kdbench.models.views import Edited, FrozenTeacher

TOTALS = {  # parameters at 100, 10 and 43 classes
    "wrn28_4": (5_872_180, 5_849_050, 5_857_531),
    "wrn16_4": (2_772_020, 2_748_890, 2_757_371),
    "wrn28_2": (1_479_220, 1_467_610, 1_471_867),
    "wrn40_2": (2_255_156, 2_243_546, 2_247_803),
    "wrn16_2": (703_284, 691_674, 695_931),
    "resnet56": (861_620, 855_770, 857_915),
    "pyramid110": (3_913_536, 3_904_446, 3_907_779),
    "pyramid200": (26_844_952, 26_752_702, 26_786_527),
}
TAPS = {
    "wrn28_4": (64, 128, 256),
    "wrn16_2": (32, 64, 128),
    "resnet56": (16, 32, 64),
    "pyramid110": (44, 72, 100),
    "pyramid200": (100, 180, 1024),
}
NORMS = {
    "wrn28_4": (25, 3600),
    "resnet56": (57, 2128),
    "pyramid110": (164, 9554),
    "pyramid200": (266, 90_992),
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", TOTALS)
def test_parameter_totals_are_exact(name):
    assert tuple(parameters(create_model(name, k)) for k in (100, 10, 43)) == TOTALS[name]


@pytest.mark.parametrize("name", NORMS)
def test_batch_norms_are_counted_as_in_the_papers_code(name):
    norms = [m for m in create_model(name, 10).modules() if isinstance(m, nn.BatchNorm2d)]
    assert (len(norms), sum(m.num_features for m in norms)) == NORMS[name]


@pytest.mark.parametrize("name", model_names())
def test_a_forward_pass_shows_groups_taps_and_logits(name):
    model = create_model(name, 7).eval()
    with torch.no_grad():
        out = model.features(torch.rand(2, 3, 16, 16))
        assert out.logits.shape == (2, 7)
        assert tuple(g.shape[1] for g in out.groups) == model.group_channels
        assert tuple(t.shape[1] for t in out.taps) == model.tap_channels
        assert [g.shape[2] for g in out.groups] == [16, 8, 4]
        assert [t.shape[2] for t in out.taps] == [16, 8, 4]
        assert all(t.min() < 0 for t in out.taps), "a tap must be seen before its ReLU"
        assert torch.allclose(model.head(out.groups[2]), out.logits, atol=1e-5)
        for tap, norm in zip(out.taps, model.tap_norms(), strict=True):
            assert norm.num_features == tap.shape[1]


@pytest.mark.parametrize("name", TAPS)
def test_tap_channels_are_the_papers(name):
    assert create_model(name, 10).tap_channels == TAPS[name]


def test_pyramid_group_channels():
    assert create_model("pyramid200", 10).group_channels == (384, 704, 1024)
    assert create_model("pyramid110", 10).group_channels == (44, 72, 100)


@pytest.mark.parametrize(("name", "size"), [("wrn10_1", 19), ("resnet20", 20), ("pyramid110", 19)])
def test_an_odd_image_size_works(name, size):
    assert create_model(name, 3).eval()(torch.rand(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("name", ["wrn10_1", "resnet20", "timm/mobilenetv3_small_100"])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_an_edit_reaches_everything_downstream_and_nothing_upstream(name, group):
    model, x = create_model(name, 5, image_size=32).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        plain = model.features(x)
        # Not a constant: a following batch norm in eval mode keeps it, but a later one could be
        # blind to it.
        edited = model.features(x, edit=lambda i, g: g + torch.rand_like(g) if i == group else g)
    for i in range(3):
        assert torch.equal(plain.groups[i], edited.groups[i]) == (i < group)
    assert not torch.allclose(plain.logits, edited.logits)


@pytest.mark.parametrize("name", ["wrn10_1", "timm/mobilenetv3_small_100"])
def test_an_edited_model_is_a_model(name):
    class Shift(nn.Module):
        def forward(self, i, g):
            return g + i + 1

    model, x = create_model(name, 5, image_size=32).eval(), torch.rand(2, 3, 32, 32)
    view = Edited(model, Shift()).eval()
    with torch.no_grad():
        expected = model.features(x, edit=lambda i, g: g + i + 1)
        assert torch.equal(view.features(x).logits, expected.logits)
        assert torch.equal(view(x), expected.logits)
        assert torch.allclose(copy.deepcopy(view)(x), expected.logits)
        assert torch.allclose(view.head(expected.groups[2]), expected.logits, atol=1e-5)


def test_a_frozen_teacher_changes_in_no_mode():
    model = create_model("wrn10_1", 5)
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(8, 3, 16, 16)
    batch, running = FrozenTeacher(model, "batch"), FrozenTeacher(model, "running")
    a, b = batch.features(x), running.features(x)
    assert not torch.allclose(a.logits, b.logits)
    assert not a.logits.requires_grad
    for teacher in (batch, running):
        assert all(torch.equal(v, before[k]) for k, v in teacher.model.state_dict().items())
        assert not any(p.requires_grad for p in teacher.model.parameters())
    assert all(p.requires_grad for p in model.parameters()), "the caller's model stays trainable"
    # batch mode is what the network computes in train mode
    torch.testing.assert_close(model.train()(x), a.logits)


def test_normalization_is_part_of_the_model_but_not_of_its_weights():
    model, x = create_model("wrn10_1", 5).eval(), torch.rand(2, 3, 16, 16)
    plain = model(x)
    model.set_normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert torch.allclose(model(x / 2 + 0.5), plain, atol=1e-5)
    assert not any("pixel" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        pytest.param("timm/resnet50", 64, [8, 4, 2], marks=pytest.mark.slow),
        ("timm/mobilenetv3_small_100", 32, [8, 4, 2]),
        ("torchvision/resnet18", 32, [8, 4, 2]),
        ("torchvision/vgg11", 64, [8, 4, 2]),  # its pool enlarges 2x2 to 7x7: not a stage
        # channels last
        pytest.param("timm/swin_tiny_patch4_window7_224", 64, [8, 4, 2], marks=pytest.mark.slow),
        ("timm/vit_tiny_patch16_224", 64, [4, 4, 4]),  # tokens
    ],
)
def test_library_models_find_their_stages(name, size, sides):
    model = create_model(name, 4, image_size=size).eval()
    out = model.features(torch.rand(2, 3, size, size))
    assert [tuple(g.shape[1:]) for g in out.groups] == [
        (c, n, n) for c, n in zip(model.group_channels, sides, strict=True)
    ]
    assert torch.allclose(model.head(out.groups[2]), out.logits, atol=1e-5)
    gradients = torch.autograd.grad(out.logits.square().sum(), out.groups)
    assert all(g.abs().sum() > 0 for g in gradients), "the logits are computed from the groups"


@pytest.mark.parametrize(
    ("name", "size"), [("torchvision/googlenet", 64), ("torchvision/inception_v3", 96)]
)
def test_a_network_with_auxiliary_heads_returns_its_own_logits_while_training(name, size):
    model = create_model(name, 4, image_size=size).train()
    assert model.features(torch.rand(2, 3, size, size)).logits.shape == (2, 4)


def test_a_library_models_head_leaves_earlier_statistics_alone():
    model = create_model("torchvision/resnet18", 4, image_size=32).train()
    g = model.features(torch.rand(4, 3, 32, 32)).groups[2]
    before = copy.deepcopy(model.state_dict())
    model.head(g)
    assert all(module.training for module in model.modules())
    changed = {
        key.split(".")[1]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == {"layer4"}, "only what follows G3 saw data"


def test_a_library_model_drops_its_hooks_when_an_edit_fails():
    model = create_model("torchvision/resnet18", 4, image_size=32).eval()
    with pytest.raises(ZeroDivisionError):
        model.features(torch.rand(2, 3, 32, 32), edit=lambda i, g: 1 / 0)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_transformer_that_bypasses_its_maps_is_refused():
    with pytest.raises(ConfigError, match="class token"):
        create_model("torchvision/vit_b_32", 4, image_size=64)


def test_unknown_names_and_bad_pairs_say_what_exists():
    with pytest.raises(UnknownMethodError, match="did you mean 'wrn16_2'"):
        create_model("wrn16_22", 10)
    with pytest.raises(UnknownMethodError, match="unknown timm model 'resnet5o'"):
        create_model("timm/resnet5o", 10)
    with pytest.raises(UnknownMethodError, match="unknown model 'nothing'"):
        split_pair("wrn16_2-nothing")
    with pytest.raises(ConfigError, match="--teacher and --student"):
        split_pair("wrn16_2")
    with pytest.raises(ConfigError, match="at least 2"):
        create_model("wrn16_2", 1)
    assert split_pair("wrn16_2-timm/resnet50") == ("wrn16_2", "timm/resnet50")


@pytest.mark.parametrize("name", ["pyramid110", "pyramid200"])
def test_a_block_of_a_new_pyramid_is_its_shortcut(name):
    block = create_model(name, 10)._blocks(0)[1].eval()
    x = torch.randn(2, block.bn1.num_features, 8, 8)
    out = block(x)
    assert torch.equal(out[:, : x.shape[1]], x)
    assert not out[:, x.shape[1] :].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pyramid_shortcut_is_the_identity_padded_with_zero_channels(stride):
    torch.manual_seed(0)
    block = BasicBlock(4, 7, stride)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    h = (
        torch.randn(2, 7, 5, 5, requires_grad=True)
        if stride == 1
        else torch.randn(2, 7, 3, 3, requires_grad=True)
    )
    weight = torch.randn_like(h)

    def gradients(added):
        return [added.detach(), *torch.autograd.grad((added * weight).sum(), (h, x))]

    shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
    expected = gradients(h + F.pad(shortcut, (0, 0, 0, 0, 0, 3)))
    got = gradients(block.add(h.clone(), x))  # a copy: its memory is reused
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
