"""Groups of a network that make no sense are told, whatever the network is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.errors import ConfigError, ContractError
from kdbench.loading.groups import groups
from kdbench.models import ModelSource, blank_model, external
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.named import named_facts
from kdbench.models.soundness import check_groups

CLASSES, SIZE = 3, 16
ODD = "timm/edgenext_xx_small"
"""At 224 pixels a square of attention weights is taken for a map: the second group is none."""


class Small(FeatureModel):
    """A sound network. Each of its steps can be spoilt."""

    def __init__(self, num_classes=CLASSES, **spoilt):
        super().__init__()
        self.name, self.num_classes = "small", num_classes
        self.group_channels = self.tap_channels = (4, 8, 16)
        shapes = ((3, 4, 1), (4, 8, 2), (8, 16, 2))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in shapes)
        self.fc, self.wide = nn.Linear(16, num_classes), nn.Linear(16, num_classes)
        self.spoilt = spoilt

    def features(self, x, edit=None):
        out = super().features(x, edit)
        return self.spoilt["out"](out, x, self) if "out" in self.spoilt else out

    def first_group(self, x):
        return self.spoilt.get("first", lambda g: g)(self.convs[0](x))

    def tap(self, i, g):
        return g

    def next_group(self, i, g, tap):
        return self.spoilt.get("next", lambda i, g: g)(i, self.convs[i + 1](tap.relu()))

    def classify(self, g, tap):
        return self.fc(tap.mean((2, 3)))

    def tap_norms(self):
        return (None, None, None)


def _third(make):
    """Puts something in the place of G3, and leaves the logits."""
    return lambda out, x, model: FeatureOutput(
        (*out.groups[:2], make(out)), (*out.taps[:2], make(out)), out.logits
    )


def _past(out, x, model):
    return FeatureOutput(out.groups, out.taps, out.logits + model.wide(x.flatten(1)[:, :16]))


SPOILT = {
    "sound": ({}, None),
    "constant": ({"next": lambda i, g: g * 0 + 1 if i else g}, "G3 is the same for every image"),
    "once more": ({"out": _third(lambda out: out.groups[1])}, "G3 is G2 once more"),
    "growing": (
        {"next": lambda i, g: nn.functional.interpolate(g, scale_factor=4.0) if i else g},
        "G3 has more places than G2",
    ),
    "no map": ({"out": _third(lambda out: out.groups[2].flatten(1))}, "and no map of features"),
    "past the groups": ({"out": _past}, "alone does not decide the logits"),
    "no weight": (
        {"out": _third(lambda out: out.groups[1].relu())},
        "no weight lies between G2 and G3",
    ),
    "an error": ({"first": lambda g: 1 / 0}, "cannot be tried with images of 16x16: division by"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_groups_that_make_no_sense_are_told(name):
    spoilt, says = SPOILT[name]
    torch.manual_seed(0)
    notes = check_groups(Small(**spoilt).eval(), SIZE)
    assert any(says in note for note in notes) if says else notes == []


def test_what_is_no_classifier_is_refused():
    wrong = {"out": lambda out, x, model: FeatureOutput(out.groups, out.taps, out.logits[:, :1])}
    with pytest.raises(
        ContractError, match="is no classifier: for 2 images and 3 classes it gives 2x1"
    ):
        check_groups(Small(**wrong).eval(), SIZE)
    short = {"out": lambda out, x, model: FeatureOutput(out.groups[:2], out.taps, out.logits)}
    with pytest.raises(ContractError, match="2 groups and 3 taps; every network has 3"):
        check_groups(Small(**short).eval(), SIZE)


@pytest.mark.parametrize("name", ["wrn10_1", "resnet20", "pyramid110"])
def test_kdbench_s_own_networks_are_sound(name):
    assert check_groups(blank_model(name, CLASSES).eval(), SIZE) == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/resnet18", 32),
        ("torchvision/mobilenet_v3_small", 64),
        ("timm/vit_tiny_patch16_224", 64),
        ("timm/convnext_atto", 64),
    ],
)
def test_usual_networks_of_libraries_are_sound(name, size):
    assert named_facts(name, CLASSES, size).notes == ()


def test_a_run_and_list_say_the_same_of_a_network():
    says = "alone does not decide"
    (note,) = groups(ODD, 224, {}).notes
    assert says in note
    assert named_facts(ODD, CLASSES, 224).notes == (note,)


def test_a_plugin_s_network_is_checked_as_well():
    sources = {"odd": ModelSource(lambda classes, size: Small(classes, **SPOILT["constant"][0]))}
    says = ("G3 is the same for every image",)
    assert groups("odd", SIZE, sources).notes == says


def test_the_random_state_stays_as_it_is():
    before = torch.get_rng_state()
    check_groups(blank_model("wrn10_1", CLASSES).eval(), SIZE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "timm/deit_tiny_distilled_patch16_224",
            "cannot be built for 3 classes and images of 64x64",
        ),
        ("torchvision/vit_b_32", "cannot be built for 3 classes and images of 33x33"),
    ],
)
def test_whatever_a_library_raises_is_a_refusal(name, says):
    with pytest.raises(ConfigError, match=says):
        blank_model(name, CLASSES, image_size=int(says[-2:]))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (nn.Conv2d(3, 4, 3), "is no classifier: for 2 images of 3 classes it returns 2x4x14x14"),
        (nn.Identity(), "is no classifier"),
        (nn.Linear(1, 1), "cannot take images of 16x16"),
    ],
)
def test_a_library_s_network_without_a_head_is_refused(monkeypatch, body, says):
    monkeypatch.setattr(external, "_build", lambda *_: (body, SIZE))
    with pytest.raises(ConfigError, match=says):
        external.ExternalModel("timm", "some_enc", CLASSES, SIZE)


def test_an_error_without_words_is_named_by_its_kind(monkeypatch):
    def build(*_):
        raise AssertionError

    monkeypatch.setattr(external, "_build", build)
    with pytest.raises(ConfigError, match="its own size: AssertionError"):
        external.ExternalModel("timm", "some", CLASSES)
