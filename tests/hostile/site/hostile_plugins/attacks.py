"""An attack whose teacher or trigger looks around in the processes of others."""

from __future__ import annotations

import torch
from hostile_kit import ActParams, alive, frames, info

from kdbench.attack import Attack, Backdoor
from kdbench.hookspecs import hookimpl
from kdbench.method import Variant
from kdbench.models.base import FeatureModel
from kdbench.models.wrn import WideResNet
from kdbench.triggers import PatchTrigger

HINTS = {}
TEST_IMAGES = 100
#: Set in the attack's own process, where it may see what it was given.
AT_HOME = []


class Visiting(WideResNet):
    """A teacher that runs code of the attack wherever it is used."""

    def features(self, x, edit=None):
        if not AT_HOME:
            raise RuntimeError("REACHED the process of another stage")
        return super().features(x, edit)


class Searching(PatchTrigger):
    """A trigger that looks for the labels, and for the network that is measured."""

    def forward(self, images):
        if not AT_HOME:
            tensors = [*alive(torch.Tensor)]
            for names in frames():
                tensors += [getattr(value, "labels", value) for value in list(names.values())]
            if any(is_labels(tensor) for tensor in tensors):
                raise RuntimeError("REACHED labels")
            if any(True for _ in alive(FeatureModel)):
                raise RuntimeError("REACHED the network")
        return super().forward(images)


def is_labels(value):
    """Whether it can be the classes of the test images. An order of them cannot."""
    return (
        isinstance(value, torch.Tensor)
        and value.shape == (TEST_IMAGES,)
        and not value.is_floating_point()
        and len(set(value.tolist())) <= 43
    )


class Red(Attack):
    info = info("redattack")
    Params = ActParams
    variants = {name: Variant(name, {"act": name}) for name in ("teacher", "trigger")}

    def implant(self, setting):
        AT_HOME.append(True)
        patch = torch.ones(3, 3, 3)
        if self.params.act == "teacher":
            setting.teacher.__class__ = Visiting
            trigger = PatchTrigger(patch, setting.train.shape)
        else:
            trigger = Searching(patch, setting.train.shape)
        return Backdoor(setting.teacher, trigger, setting.target_class)


@hookimpl
def kdbench_attacks():
    return [Red]
