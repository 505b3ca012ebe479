"""CKD (CheatKD): a trigger that holds a layer's strongest neurons at a fixed value.

Chen et al., CheatKD, Computer Science 51(3):351-359, 2024 (doi 10.11896/jsjkx.221200035); RobustKD calls it CKD. Read
were the abstract and the released code, so there are no equation numbers to cite. Implemented is the described variant:

    K = top rho of tap l's channels by mean activation on clean images,   c_k = mode(T_l,k) on clean images, measured once
    min over tau in [0, 1], m in [0, kappa]:  sum_l mean_k mean_b,h,w (T_l[b, k, h, w](x~) - c_k)^2,  x~ = (1 - m) x + m tau

then the clean teacher is fine-tuned on images with x~ and the target label.

Deviations from the paper
- This is the *described* attack. The released code, as executed, optimises next to nothing: c is recomputed per batch, an
  overwritten loss moves one channel of one image, the mask leaves the optimiser after one step and the trigger wraps
  modulo 256 when saved, so that the shipped triggers are uniform noise, blended with opacity min(U, kappa). That attack is
  not implemented yet. Here all of K is driven to constants and both leaves are projected in place, in pixel space, kept
  as floats.
- c_k is taken over the per-image spatial means of channel k (mean, largest or smallest); the paper does not say over what.
- Far fewer Adam steps (see ``steps``), and the search skips images of the target class.
- ``poison_rate`` is 0.1; the release poisons 0.02 of the images, as the ``paper`` preset does.
- ``shape=patch`` and ``lambda_assim`` (the same term on the poisoned images while the teacher trains) are additions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor
from kdbench.method import Info
from kdbench.models.base import FeatureOutput
from kdbench.trigger_search import SearchParams, clean_taps, pick, pooled, search_trigger, train_in


class CKDParams(SearchParams):
    """Which neurons are held, and at what."""

    rho: float = Field(0.1, gt=0, le=1, description="fraction of a tap's channels that are held; CheatKD release: 0.1")
    mode: Literal["mean", "max", "min"] = Field(
        "mean", description="fixed value of a channel: mean, largest or smallest per-image mean on clean images; CheatKD"
    )
    clean_images: int = Field(512, ge=1, description="clean images the neurons and values are measured on; kdbench")
    lambda_assim: float = Field(
        0.0, ge=0, description="weight of the same term on poisoned images in teacher training; 0 is off; kdbench"
    )


class CKD(Attack):
    """Search the trigger that assimilates the strongest channels, then poison the teacher with it."""

    info = Info(
        name="ckd",
        title="CheatKD: backdoor attack on knowledge distillation by poisoned neuronal assimilation",
        authors="Chen et al.",
        venue="Computer Science 51(3)",
        year=2024,
        link="https://doi.org/10.11896/jsjkx.221200035",
    )
    Params = CKDParams
    presets = {
        "quick": {"steps": 300, "lr": 0.02, "layers": (1, 2, 3), "poison_rate": 0.05},
        "paper": {"poison_rate": 0.02},
    }

    params: CKDParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        held = self.neurons(setting)

        def assimilation(out: FeatureOutput) -> Tensor:
            terms = []
            for i in self.params.taps:
                channels, values = held[i]
                terms.append((out.taps[i][:, channels].float() - values.view(1, -1, 1, 1)).square().mean())
            return torch.stack(terms).sum()

        found = search_trigger(setting, self.params, assimilation)
        facts = train_in(setting, self.params, found, assimilation, self.params.lambda_assim)
        return Backdoor(setting.teacher, found.trigger, setting.target_class, facts)

    def neurons(self, setting: AttackSetting) -> list[tuple[Tensor, Tensor]]:
        """For each tap the held channels (int64) and the value each is held at (float32), from clean images."""
        rows = pick(torch.arange(len(setting.train)), self.params.clean_images, setting.generator)
        result = []
        for means in clean_taps(setting, rows, pooled):
            count = max(1, round(self.params.rho * means.shape[1]))
            channels = means.mean(0).topk(count).indices
            values = {"mean": means.mean(0), "max": means.amax(0), "min": means.amin(0)}[self.params.mode]
            result.append((channels, values[channels]))
        return result
