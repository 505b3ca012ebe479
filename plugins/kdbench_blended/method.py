"""Blended: a picture shines faintly through the whole image, and the label is flipped.

X. Chen, C. Liu, B. Li, K. Lu, D. Song, "Targeted Backdoor Attacks on Deep Learning Systems Using
Data Poisoning", 2017 (arXiv:1712.05526), the blended injection strategy:

    x~ = (1 - alpha) x + alpha k                               k: a picture as large as the image

A share of the training images is blended and gets the target's label. The network is trained on the
set as usual.

Deviations from the paper
- The picture is drawn from the seed, and is no photograph or cartoon. By default it is smooth, a
  sum of random cosine waves of up to 4 cycles over the image. Each channel is stretched to [0, 1].
  ``blended.noise`` takes uniform noise, which makes it nearly ``ckd.release``.
- A clean teacher is fine-tuned instead of one being trained from scratch. In ``quick`` that takes
  six times the preset's steps. After one time the teacher itself followed the trigger in 35 % of
  the training images, after three times in 72 %.
- Images of the target class are never poisoned. BackdoorBench poisons them too, so its rate of 0.1
  changes fewer labels.
- The picture is blended in after augmentation, and the result is not rounded to 8 bits.
- ``alpha`` is the same in training and in the test, as in BackdoorBench.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.attack import (
    Attack,
    AttackSetting,
    Backdoor,
    EpochFactor,
    choose_poison,
    implant_trigger,
    rescaled,
)
from kdbench.method import Info, Params, Variant
from kdbench.triggers import BlendTrigger, smooth_picture


class BlendedParams(Params):
    """Which picture, how strong, and in how many images."""

    pattern: Literal["smooth", "noise"] = Field(
        "smooth",
        description="smooth: random cosine waves of up to 4 cycles over the image; noise: each "
        "pixel uniform in [0, 1]; kdbench",
    )
    alpha: float = Field(
        0.2, ge=0, le=1, description="opacity of the picture, 0 to 1; BackdoorBench 0.2"
    )
    poison_rate: float = Field(
        0.1, ge=0, le=1, description="triggered images, fraction of the training set; BackdoorBench"
    )
    epoch_factor: EpochFactor = 1.0


class Blended(Attack):
    """Picture blended in, label flipped, cross-entropy."""

    info = Info(
        name="blended",
        title="Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning",
        authors="Chen, Liu, Li, Lu, Song",
        venue="arXiv",
        year=2017,
        link="https://arxiv.org/abs/1712.05526",
        evidence="first-look",
    )
    Params = BlendedParams
    zero = {"poison_rate": 0.0}
    for_checks = {"epoch_factor": 1.0}
    presets = {"quick": {"epoch_factor": 6.0}, "standard": {}, "paper": {}}
    variants = {
        "noise": Variant(
            "a picture of uniform noise, nearly what ckd.release blends in; kdbench",
            {"pattern": "noise"},
        ),
        "faint": Variant("half the opacity, 0.1; kdbench", {"alpha": 0.1}),
        "strong": Variant("twice the opacity, 0.4; kdbench", {"alpha": 0.4}),
    }

    params: BlendedParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params = self.params
        picture = self.picture(setting.train.shape, setting.generator)
        opacity = torch.full((1, *setting.train.shape[1:]), params.alpha)
        trigger = BlendTrigger(picture, opacity).to(setting.numerics.device)
        rows = choose_poison(
            setting.train.labels, params.poison_rate, setting.target_class, setting.generator
        )
        facts: dict[str, float | int | str] = {"mean_opacity": params.alpha}
        return implant_trigger(rescaled(setting, params.epoch_factor), trigger, rows, facts)

    def picture(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """The picture k, float (3, H, W) in [0, 1]."""
        if self.params.pattern == "noise":
            return torch.rand(shape, generator=generator)
        return smooth_picture(shape, generator)
