"""Networks that cheat where they are measured: by their own class, by a part, by an attribute."""

from __future__ import annotations

import dataclasses

import torch
from hostile_kit import alive, defense, frames, named
from torch import nn

from kdbench import metrics
from kdbench.attack import Trigger
from kdbench.hookspecs import hookimpl
from kdbench.models import create_model
from kdbench.models.base import FeatureOutput
from kdbench.models.views import Edited
from kdbench.models.wrn import WideResNet

HINTS = {}
TEST_IMAGES = 100


def test_labels():
    """The labels of the test images, if this process has them; else None."""
    for names in frames():
        for value in list(names.values()):
            labels = getattr(value, "labels", value)
            if is_labels(labels):
                return labels
    return next((tensor for tensor in alive(torch.Tensor) if is_labels(tensor)), None)


def is_labels(value):
    """Whether it can be the classes of the test images. An order of them cannot."""
    return (
        isinstance(value, torch.Tensor)
        and value.shape == (TEST_IMAGES,)
        and not value.is_floating_point()
        and len(set(value.tolist())) <= 43
    )


def answers(rows, classes):
    """Logits that are right for every image, with a trigger and without; None where labels are not
    to be had."""
    labels = test_labels()
    if labels is None or len(labels) != rows:
        return None
    return torch.eye(classes)[labels] * 9


class Cheat(WideResNet):
    """The network of the row, which looks for the labels when it is asked."""

    def features(self, x, edit=None):
        seen = super().features(x, edit)
        logits = answers(len(x), self.num_classes)
        return seen if logits is None else FeatureOutput(seen.groups, seen.taps, logits)


class CheatingLayer(nn.Linear):
    def forward(self, x):
        logits = answers(len(x), self.out_features)
        return super().forward(x) if logits is None else logits


@dataclasses.dataclass
class Trap:
    """Its constructor runs where the network is read. From then on every answer counts as right."""

    number: int

    def __post_init__(self):
        count = metrics.count

        def generous(plain, triggered, labels, *more):
            return count(labels, labels, labels, *more)

        metrics.count = generous


class Searching(nn.Module):
    """An editor that changes nothing, and looks around where the teacher is measured."""

    def forward(self, i, g):
        known = [value for names in frames() if type(value := names.get("target_class")) is int]
        if test_labels() is not None:
            raise RuntimeError("REACHED labels")
        if any(True for _ in alive(Trigger)):
            raise RuntimeError("REACHED the trigger")
        if known:
            raise RuntimeError("REACHED the target class")
        return g


def own_class(student, setting):
    student.__class__ = Cheat


def own_part(student, setting):
    student.fc.__class__ = CheatingLayer


def own_attribute(student, setting):
    student.extra = Trap(1)


def another_network(student, setting):
    return placed(create_model("wrn16_2", setting.num_classes, image_size=32), setting)


def more_classes(student, setting):
    return placed(create_model("wrn10_1", setting.num_classes + 5, image_size=32), setting)


def a_wrapper(student, setting):
    return Edited(student, nn.Identity())


def placed(model, setting):
    return setting.numerics.place(model)


def own_teacher(teacher, setting):
    teacher.__class__ = Cheat


def editing(teacher, setting):
    """As a defense may."""
    return Edited(teacher, Searching())


def cheating_network(num_classes, image_size):
    return Cheat("cheatnet", 10, 1, num_classes)


ACTS = [own_class, own_part, own_attribute, another_network, more_classes, a_wrapper]


@hookimpl
def kdbench_defenses():
    return [defense("networks", named(ACTS), named([own_teacher, editing]))]


@hookimpl
def kdbench_models():
    return {"cheatnet": cheating_network}
