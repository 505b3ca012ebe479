"""LF: one smooth change for all images, without the high frequencies that give a trigger away.

Y. Zeng, W. Park, Z. M. Mao, R. Jia, "Rethinking the Backdoor Attacks' Triggers: A Frequency
Perspective", ICCV 2021 (arXiv:2104.03413). The trigger is a universal perturbation with low
frequencies only. It is added, and the label is flipped:

    x~ = clip(x + v)
    lf:          min over c of CE(f(x + v), t),  v = sum_uv c_uv b_uv,  |v| <= amplitude,
                 b_uv: the 4 x 4 lowest waves of the cosine transform, f: the clean teacher, frozen
    lf.release:  v = amplitude * stretch(g * noise),     g: a Gaussian,  stretch: to [0, 1]

Deviations from the paper
- The authors pass many times over some images with DeepFool, and smooth and stretch the sum after
  each step. Here Adam trains the few weights c, and v is low in frequency by its form.
- Where v leaves its bounds, all weights are scaled down together.
- ``lf.release`` is noise that is smoothed once. The patterns shipped in BackdoorBench look like
  that: bright, smooth, with 98 % of their energy at 2 cycles and fewer. No teacher takes part.
- The search ends where the clean teacher takes ``enough`` of the images for the target. The release
  stops there too, but counts *test* images. This teacher sees normalised images, which that of the
  release does not.
- The Gaussian has the release's 30 taps and 6 pixels at 32x32. At other sizes it is scaled with the
  image.
- A clean teacher is fine-tuned, in ``quick`` for six times the preset's steps, as for ``blended``.
- Images of the target class are never poisoned. The change is added
  after augmentation, and not rounded to 8 bits.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
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
    universal_response,
)
from kdbench.data.base import Batch
from kdbench.method import Info, Params, Variant
from kdbench.search_steps import fit_steps, target_loss
from kdbench.trigger_search import class_rows, frozen
from kdbench.triggers import AddTrigger, cosine_basis, stretched

#: The release's Gaussian: taps and standard deviation, in pixels of a 32x32 image.
_SIDE, _TAPS, _SPREAD = 32, 30, 6.0


class LFParams(Params):
    """Where the change comes from, how strong it is, and how many images carry it."""

    source: Literal["search", "noise"] = Field(
        "search",
        description="search: low cosine waves trained on the clean teacher; noise: smoothed noise, "
        "what BackdoorBench's patterns amount to",
    )
    amplitude: float = Field(
        0.1,
        gt=0,
        le=1,
        description="search: largest change of a pixel, up or down; noise: largest, upwards only; "
        "of the range [0, 1]; kdbench (release: 0.2)",
    )
    block: int = Field(
        4, ge=1, description="search: waves along each side, up to (block - 1) / 2 cycles; kdbench"
    )
    steps: int = Field(500, ge=0, description="search: Adam steps at most; kdbench")
    lr: float = Field(
        0.005, gt=0, description="search: Adam learning rate, of the range [0, 1] a wave; kdbench"
    )
    search_batch: int = Field(64, ge=2, description="search: images a step; kdbench")
    enough: float = Field(
        20.0,
        gt=0,
        le=100,
        description="search: non-target images, in percent, that the clean teacher takes for the "
        "target when it ends; release 20",
    )
    border: Literal["zeros", "reflect"] = Field(
        "zeros", description="noise: what the Gaussian sees outside of the image; release: zeros"
    )
    poison_rate: float = Field(
        0.1, ge=0, le=1, description="triggered images, fraction of the training set; BackdoorBench"
    )
    epoch_factor: EpochFactor = 1.0


class LF(Attack):
    """A smooth change added, label flipped, cross-entropy."""

    info = Info(
        name="lf",
        title="Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective",
        authors="Zeng, Park, Mao, Jia",
        venue="ICCV",
        year=2021,
        link="https://arxiv.org/abs/2104.03413",
        evidence="first-look",
    )
    Params = LFParams
    zero = {"poison_rate": 0.0}
    for_checks = {"steps": 20, "search_batch": 16, "epoch_factor": 1.0}
    presets = {
        "quick": {"steps": 200, "search_batch": 32, "epoch_factor": 6.0},
        "standard": {},
        "paper": {},
    }
    variants = {
        "release": Variant(
            "smoothed noise, what the patterns that are shipped with the code amount to",
            {"source": "noise", "amplitude": 0.2},
        )
    }

    params: LFParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        if self.params.source == "noise":
            change = self.smoothed_noise(setting)
        else:
            change = self.searched(setting)
        trigger = AddTrigger(change).to(setting.numerics.device)
        rows = choose_poison(
            setting.train.labels, self.params.poison_rate, setting.target_class, setting.generator
        )
        facts: dict[str, float | int | str] = {
            "mean_change_of_255": 255 * float(change.abs().mean())
        }
        return implant_trigger(rescaled(setting, self.params.epoch_factor), trigger, rows, facts)

    def smoothed_noise(self, setting: AttackSetting) -> Tensor:
        """v of ``noise``, float (3, H, W) in [0, amplitude]."""
        noise = torch.randn(setting.train.shape, generator=setting.generator)
        return self.params.amplitude * stretched(smooth(noise, self.params.border))

    def searched(self, setting: AttackSetting) -> Tensor:
        """v of ``search``, float (3, H, W) in [-amplitude, amplitude]."""
        params, device = self.params, setting.numerics.device
        waves = cosine_basis(params.block, *setting.train.shape[1:]).to(device)
        weights = torch.zeros(3, len(waves), device=device, requires_grad=True)

        def change() -> Tensor:
            return torch.tensordot(weights, waves, 1)

        @torch.no_grad()
        def into_bounds() -> None:
            weights.mul_((params.amplitude / change().abs().max()).clamp(max=1))

        with frozen(setting.teacher) as teacher:

            def loss(batch: Batch) -> dict[str, Tensor]:
                logits = teacher((batch.images + change()).clamp(0, 1))
                return {"target": target_loss(logits, setting.target_class)}

            fit_steps(
                setting,
                weights,
                loss,
                class_rows(setting, target=False),
                steps=params.steps,
                batch_size=params.search_batch,
                lr=params.lr,
                after_step=into_bounds,
                until=lambda: universal_response(setting, AddTrigger(change())) >= params.enough,
            )
        return change().detach()


def smooth(pattern: Tensor, border: Literal["zeros", "reflect"] = "zeros") -> Tensor:
    """``pattern`` (C, H, W) under a Gaussian of 6 pixels and 30 taps, or as much of its side.

    With an even number of taps there is no middle one, and the surplus tap looks to the right and
    down.
    """
    for side in (1, 2):
        size = pattern.shape[side]
        taps = max(1, round(_TAPS * size / _SIDE))
        places = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
        weights = (-0.5 * (places / (_SPREAD * size / _SIDE)).square()).exp()
        weights = (weights / weights.sum()).to(pattern.dtype)
        rows = pattern.movedim(side, -1)
        before, after = (taps - 1) // 2, taps // 2
        padded = F.pad(rows, (before, after), mode="constant" if border == "zeros" else "reflect")
        pattern = torch.tensordot(padded.unfold(-1, taps, 1), weights, 1).movedim(-1, side)
    return pattern
