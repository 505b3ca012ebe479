"""Fine-Pruning: remove the channels that sleep on clean images, then fine-tune what is left.

K. Liu, B. Dolan-Gavitt, S. Garg: Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
Networks. RAID 2018, arXiv:1805.12185.

Implemented: pruning by mean activation on clean images until the accuracy falls too far, then
fine-tuning (section 3).

    a_c = mean over images and places of ReLU(T3)_c
    pruned: in increasing order of a_c, a step at a time
    kept: the longest such prefix before acc(pruned) < acc(unpruned) - max_drop on held-out images

Deviations from the paper:
- The channels pruned are those of the last feature map, as the classifier pools it, not the filters
  of the last convolution: where that convolution feeds a residual sum, its zeroed filter does not
  silence the channel.
- A network whose last tap is its last group output itself (library models, resnet) is pruned in
  that group output. Where no batch norm describes the tap, as in library models, no ReLU is assumed
  and a_c is the mean of |T3|: the same for a tap after its ReLU; a channel of signed features
  sleeps where it is near zero.
- The accuracy is measured on images held out from the repair (``val_fraction`` of them, drawn
  once), and the network goes back to the last acceptable step; the fine-tuning sees the other
  images only.
- Pruned channels stay zero while fine-tuning; the paper leaves it open.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``). A distiller that reads group outputs (AT) sees a pruned teacher's pruned channels
  only where the pruning is in the group output.
- Recipe from the preset unless given here; ``paper`` has BackdoorBench's (Wu et al. 2022), since
  the paper gives none.
- The presets give the defender every training image (``--clean-fraction`` for less).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.data.base import ImageSet
from kdbench.defense import DefenseSetting
from kdbench.errors import ConfigError
from kdbench.method import Info, Variant
from kdbench.metrics import accuracy
from kdbench.models.base import GROUPS, FeatureModel
from kdbench.models.views import Pruned
from kdbench.numerics import Numerics
from kdbench.repair import Repair, TuningParams, fine_tune, held_out

_LAST = GROUPS - 1
_BATCH = 250


class FinePruneParams(TuningParams):
    """When to stop pruning; the rest is the recipe of the fine-tuning."""

    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="images of each class that decide how much is pruned, share of the defender's; "
        "kdbench",
    )
    max_drop: float = Field(
        0.04,
        ge=0,
        le=1,
        description="accuracy on these images that pruning may cost, absolute, of [0, 1]; paper "
        "section 3",
    )
    step: float = Field(
        0.01,
        gt=0,
        le=1,
        description="channels pruned at a time, share of all, at least one; BackdoorBench",
    )
    max_pruned: float = Field(
        1.0,
        ge=0,
        le=1,
        description="channels pruned at most, share of all; one always stays; kdbench",
    )


@torch.no_grad()
def mean_activation(model: FeatureModel, images: ImageSet, numerics: Numerics) -> Tensor:
    """a_c of every channel of the last tap, float32 (C,) on the CPU; ``model`` is in eval mode."""
    through_relu = model.tap_norms()[_LAST] is not None
    total = torch.zeros(model.tap_channels[_LAST], device=numerics.device)
    for batch in images.batches(_BATCH, device=numerics.device):
        with numerics.autocast():
            tap = model.features(batch.images).taps[_LAST].float()
        total += (tap.relu() if through_relu else tap.abs()).mean((2, 3)).sum(0)
    return (total / len(images)).cpu()


@torch.no_grad()
def site_of(model: FeatureModel, images: Tensor) -> Literal["tap", "group"]:
    """Where a channel that the classifier must not see is set to zero; ``images`` (N, 3, H, W) to
    look with."""
    out = model.features(images)
    return "group" if out.taps[_LAST] is out.groups[_LAST] else "tap"


class FinePruning(Repair):
    """Prune what clean images do not use, then fine-tune."""

    info = Info(
        name="fineprune",
        title="Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
        authors="Liu, Dolan-Gavitt, Garg",
        venue="RAID",
        year=2018,
        link="https://arxiv.org/abs/1805.12185",
        evidence="other-repairs",
    )
    Params = FinePruneParams
    zero = {"max_pruned": 0.0, "epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {"epochs": 100, "batch_size": 256, "lr": 0.01, "weight_decay": 5e-4},
    }
    variants = {"prune": Variant("prunes and does not fine-tune", {"epochs": 0})}
    params: FinePruneParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Prune and train ``model`` in place; returns it, behind its mask if anything was pruned.

        Raises:
            ConfigError: no class has two images, so that none can be held out.
        """
        images, choosing = held_out(setting.clean, self.params.val_fraction, setting.generator)
        if len(choosing) == 0:
            raise ConfigError(
                "fineprune holds images out, and no class has two; raise --clean-fraction"
            )
        pruned = self.prune(model, images, choosing, setting.numerics)
        repaired = model if bool(pruned.kept.all()) else pruned
        fine_tune(repaired, setting, self.params.recipe(setting.recipe), images=images)
        return repaired

    def prune(
        self, model: FeatureModel, images: ImageSet, choosing: ImageSet, numerics: Numerics
    ) -> Pruned:
        """The model behind the largest acceptable mask: channels ranked on ``images``, accuracy
        measured on ``choosing``."""
        # Stable: channels that never fire tie at zero, and every machine should prune the same of
        # them first.
        order = mean_activation(model, images, numerics).argsort(stable=True)
        channels = len(order)
        at_once = max(1, round(self.params.step * channels))
        most = min(channels - 1, math.floor(self.params.max_pruned * channels + 1e-9))
        site = site_of(model, choosing.read(torch.zeros(1, dtype=torch.int64), numerics.device))
        pruned = Pruned(model, torch.ones(channels, device=numerics.device), site).eval()
        correct, total = accuracy(model, choosing, numerics)
        fewest = correct - self.params.max_drop * total
        count = 0
        while count < most:
            accepted = pruned.kept.clone()
            count = min(count + at_once, most)
            pruned.kept[:, order[:count]] = 0
            if accuracy(pruned, choosing, numerics)[0] < fewest:
                pruned.kept.copy_(accepted)
                break
        return pruned
