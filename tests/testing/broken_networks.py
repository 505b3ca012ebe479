"""Networks with one thing wrong each, as a plugin file. ``CAUGHT`` says which check finds it."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.hookspecs import hookimpl
from kdbench.models import ModelSource
from kdbench.models.base import FeatureModel


class Sound(FeatureModel):
    """Nothing is wrong with it."""

    capturable = True
    channels = (4, 8, 16)

    def __init__(self, name, num_classes):
        super().__init__()
        self.name, self.num_classes = name, num_classes
        self.group_channels = self.tap_channels = self.channels
        self.group = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c, 3, stride, 1, bias=False), nn.BatchNorm2d(c))
            for c_in, c, stride in zip((3, *self.channels), self.channels, (1, 2, 2), strict=False)
        )
        self.fc = nn.Linear(self.channels[-1], num_classes)

    def first_group(self, x):
        return self.group[0](x)

    def tap(self, i, g):
        return g

    def next_group(self, i, g, tap):
        return self.group[i + 1](F.relu(tap))

    def classify(self, g, tap):
        return self.fc(F.relu(tap).mean((2, 3)))

    def tap_norms(self):
        return tuple(group[1] for group in self.group)


class Unpooled(Sound):
    def pooled(self, output):
        return output.taps[-1]


class PooledAlone(Sound):
    def pooled(self, output):
        return output.taps[-1].detach().mean((2, 3))


class Stemmed(Sound):
    """It gives what goes into its first group, and nothing is wrong with it."""

    stem_channels = 6

    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.start = nn.Conv2d(3, 6, 1)
        self.group[0][0] = nn.Conv2d(6, self.channels[0], 3, 1, 1, bias=False)

    def first_group(self, x):
        return self.stem_and_first_group(x)[1]

    def stem_and_first_group(self, x):
        stem = self.start(x)
        return stem, self.group[0](stem)


class MisstatedStem(Stemmed):
    stem_channels = 5


class UnstatedStem(Stemmed):
    stem_channels = None


class PromisedStem(Sound):
    """It promises a stem, and gives none."""

    stem_channels = 6


class FlatStem(Stemmed):
    def stem_and_first_group(self, x):
        stem, g = super().stem_and_first_group(x)
        return stem.mean((2, 3)), g


class SmallStem(Stemmed):
    def stem_and_first_group(self, x):
        stem, g = super().stem_and_first_group(x)
        return F.avg_pool2d(stem, 2), g


class CutStem(Stemmed):
    def stem_and_first_group(self, x):
        stem, g = super().stem_and_first_group(x)
        return stem.detach(), g


class StemByBatch(Stemmed):
    def stem_and_first_group(self, x):
        stem, g = super().stem_and_first_group(x)
        return stem - stem.mean(0), g


class Misnamed(Sound):
    def __init__(self, name, num_classes):
        super().__init__("another", num_classes)


class Miscounted(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.num_classes = 10


class Misstated(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.group_channels = (4, 8, 8)


class Flat(Sound):
    def next_group(self, i, g, tap):
        g = super().next_group(i, g, tap)
        return g.mean((2, 3)) if i == 1 else g

    def classify(self, g, tap):
        return self.fc(F.relu(tap))


class AfterRelu(Sound):
    def next_group(self, i, g, tap):
        return self.group[i + 1](F.relu_(tap))


class Raw(Sound):
    def first_group(self, x):
        return super().first_group(x * self.pixel_std + self.pixel_mean)


class Unedited(Sound):
    def features(self, x, edit=None):
        return super().features(x)


class OneGroupLess(Sound):
    channels = (4, 4, 16)

    def next_group(self, i, g, tap):
        return F.avg_pool2d(tap, 2) if i == 0 else super().next_group(i, g, tap)


class AlwaysDrops(Sound):
    def classify(self, g, tap):
        return super().classify(g, F.dropout(tap, 0.5))


class Counts(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.register_buffer("passes", torch.zeros(()))

    def first_group(self, x):
        self.passes += 1
        return super().first_group(x)


class ByBatch(Sound):
    def classify(self, g, tap):
        logits = super().classify(g, tap)
        return logits - logits.mean(0)


class Unused(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.more = nn.Linear(2, 2)


class Hidden(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.scale = [float(torch.rand(()))]

    def classify(self, g, tap):
        return super().classify(g, tap) * self.scale[0]


class Remembers(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.steps = 0

    def first_group(self, x):
        self.steps += self.training
        return super().first_group(x)


class OtherNorm(Sound):
    def tap_norms(self):
        return tuple(group[1] for group in reversed(self.group))


class LooseNorm(Sound):
    def tap_norms(self):
        return tuple(nn.BatchNorm2d(c) for c in self.channels)


class RunsTwice(Sound):
    def next_group(self, i, g, tap):
        super().next_group(i, g, tap)
        return super().next_group(i, g, tap)


class DrawsWithNumpy(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        with torch.no_grad():
            self.fc.bias += float(np.random.random())


class SeedsAnew(Sound):
    def __init__(self, name, num_classes):
        torch.manual_seed(3)
        super().__init__(name, num_classes)


class Constant(Sound):
    def __init__(self, name, num_classes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            super().__init__(name, num_classes)


_MADE = []


class Numbered(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        _MADE.append(1)
        with torch.no_grad():
            self.fc.bias += len(_MADE)


class OfItsProcess(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        with torch.no_grad():
            self.fc.bias += os.getpid() % 1000


class SetsTheEnvironment(Sound):
    def __init__(self, name, num_classes):
        os.environ["OF_A_NETWORK"] = "1"
        super().__init__(name, num_classes)


class NotKept(Sound):
    def __init__(self, name, num_classes):
        super().__init__(name, num_classes)
        self.function = lambda x: x


class NoGradient(Sound):
    """Its logits learn, and its features do not."""

    def features(self, x, edit=None):
        with torch.no_grad():
            return super().features(x, edit)

    def forward(self, x):
        return super().features(x).logits


class Waits(Sound):
    def classify(self, g, tap):
        return super().classify(g, tap * (1.0 if tap.mean().item() > 0 else 0.5))


class DropsInTraining(Sound):
    def classify(self, g, tap):
        return super().classify(g, F.dropout(tap, 0.1, self.training))


class Changes(Sound):
    """Another operation each time."""

    def classify(self, g, tap):
        _MADE.append(1)
        return super().classify(g, tap + 0 if len(_MADE) % 2 else tap)


#: A network -> the check that must find what is wrong with it.
CAUGHT = {
    Unpooled: "pooled",
    PooledAlone: "pooled",
    MisstatedStem: "stem",
    UnstatedStem: "stem",
    PromisedStem: "stem",
    FlatStem: "stem",
    SmallStem: "stem",
    CutStem: "stem",
    StemByBatch: "stem",
    Misnamed: "network_name",
    Miscounted: "network_name",
    Misstated: "shapes",
    Flat: "shapes",
    AfterRelu: "taps_before_relu",
    Raw: "normalises",
    Unedited: "edits",
    OneGroupLess: "sound_groups",
    AlwaysDrops: "eval_mode",
    Counts: "eval_mode",
    ByBatch: "by_image",
    Unused: "all_gradients",
    Hidden: "state_dict",
    Remembers: "after_training",
    OtherNorm: "tap_norms",
    LooseNorm: "tap_norms",
    RunsTwice: "statistics",
    DrawsWithNumpy: "torch_state",
    SeedsAnew: "random_state",
    Constant: "another_seed",
    Numbered: "same_seed",
    OfItsProcess: "new_process",
    SetsTheEnvironment: "surroundings",
    NotKept: "file",
    NoGradient: "distils",
    Waits: "capturable",
    DropsInTraining: "capturable",
    Changes: "capturable",
}


@hookimpl
def kdbench_models():
    def source(cls):
        return ModelSource(lambda classes, side: cls(cls.__name__.lower(), classes))

    return {cls.__name__.lower(): source(cls) for cls in (Sound, Stemmed, *CAUGHT)}
