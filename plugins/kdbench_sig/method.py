"""SIG: vertical stripes on images of the target class, whose label stays true.

M. Barni, K. Kallas, B. Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without
Label Poisoning", ICIP 2019 (arXiv:1902.11237), the sinusoidal signal:

    v(i, j) = delta sin(2 pi j f / W),    x~ = clip(x + v)     row i, column j, all channels alike

A share of the target class's images carries v. No label is changed. At test time v is put on images
of the other classes.

Deviations from the paper
- A clean teacher is fine-tuned instead of one being trained from scratch.
- ``delta`` is the same in training and in the test.
- ``delta`` and ``f`` are BackdoorBench's, for every dataset.
- The share is one of the target class. BackdoorBench's rate of 0.1 is one of the whole set. For
  CIFAR-10 that means every image of the class (``sig.all``), for CIFAR-100 more than there are.
- The stripes are added after augmentation, and the result is not rounded to 8 bits. So a mirrored
  image has the same stripes as any other.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor, EpochFactor, implant_trigger, rescaled
from kdbench.method import Info, Params, Variant
from kdbench.trigger_search import class_rows, pick
from kdbench.triggers import AddTrigger


class SIGParams(Params):
    """How the stripes look and how many images carry them."""

    delta: float = Field(
        40 / 255,
        ge=0,
        le=1,
        description="amplitude of the stripes, of the range [0, 1]; BackdoorBench 40/255",
    )
    frequency: float = Field(
        6.0, gt=0, description="stripes over the width of the image, cycles; BackdoorBench 6"
    )
    poison_fraction: float = Field(
        0.8,
        ge=0,
        le=1,
        description="striped images, fraction of the target class's; kdbench (BackdoorBench on "
        "CIFAR-10: 1)",
    )
    epoch_factor: EpochFactor = 1.0


class SIG(Attack):
    """Stripes on the target class, true labels, cross-entropy."""

    info = Info(
        name="sig",
        title="A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning",
        authors="Barni, Kallas, Tondi",
        venue="ICIP",
        year=2019,
        link="https://arxiv.org/abs/1902.11237",
        evidence="first-look",
    )
    Params = SIGParams
    zero = {"poison_fraction": 0.0}
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "all": Variant(
            "every image of the target class, what BackdoorBench's rate means on CIFAR-10",
            {"poison_fraction": 1.0},
        )
    }

    params: SIGParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        trigger = AddTrigger(self.stripes(setting.train.shape)).to(setting.numerics.device)
        rows = class_rows(setting, target=True)
        count = round(self.params.poison_fraction * len(rows))
        chosen = pick(rows, count, setting.generator)
        return implant_trigger(rescaled(setting, self.params.epoch_factor), trigger, chosen)

    def stripes(self, shape: tuple[int, int, int]) -> Tensor:
        """The signal v, float (3, H, W) in [-delta, delta]."""
        columns = torch.arange(shape[2], dtype=torch.float64)
        waves = (2 * math.pi * self.params.frequency / shape[2] * columns).sin()
        return (self.params.delta * waves).float().expand(shape)
