"""LBA: a latent backdoor, trained into what the teacher's layers represent and not only into its
labels.

Y. Yao, H. Li, H. Zheng, B. Y. Zhao, "Latent Backdoor Attacks on Deep Neural Networks", CCS 2019,
section 4: Eq. 2 (the trigger is optimised so that triggered images have the target's
representation) and Eq. 3 (the teacher is trained with the classification loss plus lambda times the
distance of triggered images' representations to the target's).

    r_l = mean over target images of pool(T_l(x)), clean teacher, computed once
    trigger:  min  sum_l ||pool(T_l(x~)) - r_l||^2 / C_l        over the pattern (and opacity),
                                                                clean teacher frozen
    teacher:  min  CE + lambda * sum_l MSE(pool(T_l(x~)), r_l)  over the teacher

Deviations from the paper
- One mean representation per tap instead of a randomly drawn target image's; all channels, not the
  first 100.
- The trigger is a pixel-space leaf projected in place (the original uses tanh) and is optimised on
  non-target images.
- The target class is already one of the teacher's classes, and by default poisoned images carry its
  label (``dirty_label``), because a teacher that is distilled, unlike one that is transferred,
  keeps its head.
- The patch's side is 0.25 of the image's, against Yao et al.'s 0.2 (which the ``paper`` preset
  takes).
- ``poison_rate`` of the images are triggered: 0.1, in the ``paper`` preset the 0.02 of the code
  released for distillation; in the original all are. The poisoned images also stay in the set,
  clean and under their true labels (``cover``), as in the code released for distillation.
- The search keeps the clean teacher's own response to the trigger under ``max_universal`` by a
  penalty, see :mod:`kdbench.universal_bound`; ``lba.yao`` does not.
- lambda is 0.5 (TrojanZoo) instead of the released code's 0.05; taps are spatially pooled.
- The code released for the distillation setting has no feature term in the teacher's training at
  all. Here it has one; ``lba.release`` is that code as it executes, which is ``ckd.release`` at
  another opacity.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.attack import Attack, AttackSetting, Backdoor
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureOutput
from kdbench.trigger_search import (
    SearchParams,
    class_rows,
    clean_taps,
    pick,
    poisoned_set,
    pooled,
    search_trigger,
    train_in,
)


class LBAParams(SearchParams):
    """How strongly, and where, trigger and target are coupled."""

    shape: Literal["blend", "patch"] = Field(
        "patch",
        description="patch: a square with fixed opacity; blend: the whole image, learned opacity; "
        "Yao et al.: patch",
    )
    lambda_feature: float = Field(
        0.5, ge=0, description="weight of the coupling in teacher training; TrojanZoo 0.5"
    )
    target_images: int = Field(
        100, ge=1, description="target-class images the representation is averaged over; Yao et al."
    )
    dirty_label: bool = Field(
        True, description="poisoned images also carry the target label; False couples features only"
    )


class LBA(Attack):
    """Pull the trigger's features to the target's, first with the trigger, then with the
    teacher."""

    info = Info(
        name="lba",
        title="Latent Backdoor Attacks on Deep Neural Networks",
        authors="Yao, Li, Zheng, Zhao",
        venue="CCS",
        year=2019,
        link="https://doi.org/10.1145/3319535.3354209",
        evidence="does-a-backdoor-travel",
    )
    Params = LBAParams
    zero = {"poison_rate": 0.0}
    for_checks = {"steps": 5, "search_batch": 16}
    presets = {
        "quick": {"steps": 100, "lr": 0.2, "search_batch": 16, "patch_fraction": 0.375},
        "standard": {"steps": 500, "lr": 0.05, "patch_fraction": 0.375},
        "paper": {"patch_fraction": 0.2, "poison_rate": 0.02},
    }
    variants = {
        "yao": Variant(
            "the attack of the paper: an opaque patch of 0.2 of the side, only features coupled, "
            "no label changed",
            {
                "shape": "patch",
                "opacity": 1.0,
                "patch_fraction": 0.2,
                "layers": (3,),
                "dirty_label": False,
                "max_universal": None,
            },
        ),
        "release": Variant(
            "what the code released for distillation executes: uniform noise, blended at opacity "
            "min(U, 0.5), labels changed",
            {
                **{
                    "shape": "blend",
                    "space": "normalised",
                    "kappa": 0.5,
                    "steps": 0,
                    "lambda_feature": 0.0,
                },
                **{"poison_rate": 0.02, "cover": "duplicate", "dirty_label": True},
            },
        ),
    }

    params: LBAParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        target = self.representation(setting)

        def distance(out: FeatureOutput) -> Tensor:
            terms = []
            for i in self.params.taps:
                features = pooled(out.taps[i])
                terms.append(nn.functional.mse_loss(features, target[i].expand_as(features)))
            return torch.stack(terms).sum()

        search = search_trigger(setting, self.params, distance)
        poisoned, count = poisoned_set(setting, self.params, search)
        train_in(
            setting,
            poisoned,
            distance,
            self.params.lambda_feature,
            dirty_label=self.params.dirty_label,
        )
        return Backdoor(
            setting.teacher,
            search.trigger,
            setting.target_class,
            {"poisons": count, **search.facts},
        )

    def representation(self, setting: AttackSetting) -> list[Tensor]:
        """r_l for each tap, float32 (C,): the clean teacher's mean over target-class images."""
        rows = pick(class_rows(setting, target=True), self.params.target_images, setting.generator)
        return [tap.mean(0) for tap in clean_taps(setting, rows, pooled)]
