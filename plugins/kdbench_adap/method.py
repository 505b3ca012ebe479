"""Adap-Blend and Adap-Patch: poison that is not set apart from clean images in the features.

X. Qi, T. Xie, Y. Li, S. Mahloujifar, P. Mittal, "Revisiting the Assumption of Latent Separability
for Backdoor Defenses", ICLR 2023 (OpenReview _wSHsgrVali). In training an image carries a part of
the trigger only. Some with a part have the target's label, others keep their own (decoys; the paper
calls them cover samples). In the test an image carries the whole trigger:

    adap_blend  training: 8 of 16 tiles of a picture blended in, drawn for each image;  test: all 16
    adap_patch  training: one of four patches, faint, in equal shares;    test: two of them, opaque

Deviations from the paper and its code
- The pictures are own ones: a smooth picture (that of ``blended``), and four squares of uniform
  noise, one in each corner. The code has pictures of others.
- The clean teacher is fine-tuned, and the trigger is put on after augmentation.
- Images of the target class are never poisoned. They may be decoys.
- The rates of the paper, 0.003, are 4 images of 1500. In ``quick`` and ``standard`` 0.05 are
  poisoned, and as many or twice as many are decoys, as in the paper.
- In the test the first and the third patch are shown, the two that are strongest in training. The
  code has another pair for each dataset.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from kdbench.attack import (
    Attack,
    AttackSetting,
    Backdoor,
    EpochFactor,
    choose_decoys,
    choose_poison,
    implant_trigger,
    rescaled,
)
from kdbench.data.base import Batch
from kdbench.method import Info, Params
from kdbench.triggers import BlendTrigger, blend, smooth_picture

#: Tiles along each side of the image, and how many of all an image carries in training.
_TILES, _SHOWN = 4, 8
#: Opacity of each patch in training; the patches that are shown in the test.
_OPACITIES, _TESTED = (0.5, 0.2, 0.5, 0.3), (0, 2)
_PAPER = {"poison_rate": 0.003}


class AdapParams(Params):
    """How many images carry a part of the trigger, and for how long the teacher is trained."""

    poison_rate: float = Field(
        0.05,
        ge=0,
        le=1,
        description="images with a part of the trigger and the target's label, fraction of the "
        "training set; kdbench (paper: 0.003)",
    )
    decoy_rate: float = Field(
        1.0,
        ge=0,
        description="images with a part of the trigger and their own label, as a multiple of the "
        "poisoned ones; paper: 1 for tiles, 2 for patches",
    )
    epoch_factor: EpochFactor = 1.0


class _Adap(Attack):
    """Parts of a trigger in training, all of it in the test."""

    zero = {"poison_rate": 0.0}
    for_checks = {"epoch_factor": 1.0}
    params: AdapParams

    @abstractmethod
    def picture(self, setting: AttackSetting) -> tuple[BlendTrigger, Tensor]:
        """(the trigger of the test, the opacities (P, 1, H, W) of the parts of training)."""

    @abstractmethod
    def draw(self, count: int, parts: int, generator: torch.Generator) -> Tensor:
        """bool (count, parts): which parts each of so many images carries in training."""

    def implant(self, setting: AttackSetting) -> Backdoor:
        params, generator, labels = self.params, setting.generator, setting.train.labels
        trigger, parts = self.picture(setting)
        trigger, parts = trigger.to(setting.numerics.device), parts.to(setting.numerics.device)
        rows = choose_poison(labels, params.poison_rate, setting.target_class, generator)
        decoys = choose_decoys(len(labels), rows, round(params.decoy_rate * len(rows)), generator)
        # One row for each training image, so that an image has the same part whenever it is shown.
        carried = torch.zeros(len(labels), len(parts), dtype=torch.bool)
        for some in (rows, decoys):
            carried[some] = self.draw(len(some), len(parts), generator)

        def in_part(batch: Batch) -> Tensor:
            which = carried[batch.positions.cpu()].to(parts)
            return blend(batch.images, trigger.pattern, torch.tensordot(which, parts, 1))

        return implant_trigger(
            rescaled(setting, params.epoch_factor),
            trigger,
            rows,
            {"decoys": len(decoys), "mean_opacity": float(trigger.mask.mean())},
            poison=in_part,
            decoys=decoys,
            decoy=in_part,
        )


def _info(name: str) -> Info:
    return Info(
        name=name,
        title="Revisiting the Assumption of Latent Separability for Backdoor Defenses",
        authors="Qi, Xie, Li, Mahloujifar, Mittal",
        venue="ICLR",
        year=2023,
        link="https://openreview.net/forum?id=_wSHsgrVali",
        evidence="first-look",
    )


class AdapBlendParams(AdapParams):
    alpha: float = Field(0.2, ge=0, le=1, description="opacity of the picture, 0 to 1; paper")


class AdapBlend(_Adap):
    """Half of the tiles of a picture in training, the picture in the test."""

    info = _info("adap_blend")
    Params = AdapBlendParams
    presets = {"quick": {"epoch_factor": 6.0}, "standard": {}, "paper": _PAPER}
    params: AdapBlendParams

    def picture(self, setting: AttackSetting) -> tuple[BlendTrigger, Tensor]:
        shape = setting.train.shape
        tile_of = [torch.arange(side) * _TILES // side for side in shape[1:]]
        number = _TILES * tile_of[0][:, None] + tile_of[1]
        tiles = torch.stack([(number == i).float()[None] for i in range(_TILES**2)])
        opacity = torch.full((1, *shape[1:]), self.params.alpha)
        picture = smooth_picture(shape, setting.generator)
        return BlendTrigger(picture, opacity), self.params.alpha * tiles

    def draw(self, count: int, parts: int, generator: torch.Generator) -> Tensor:
        ranks = torch.rand(count, parts, generator=generator).argsort(1).argsort(1)
        return ranks < _SHOWN


class AdapPatchParams(AdapParams):
    decoy_rate: float = Field(
        2.0,
        ge=0,
        description="images with a patch and their own label, as a multiple of the poisoned ones; "
        "paper",
    )
    patch_fraction: float = Field(
        0.25, gt=0, le=0.5, description="side of a patch, fraction of the image height; kdbench"
    )


class AdapPatch(_Adap):
    """One of four faint patches in training, two opaque ones in the test."""

    info = _info("adap_patch")
    Params = AdapPatchParams
    presets = {"quick": {"epoch_factor": 6.0}, "standard": {}, "paper": _PAPER}
    params: AdapPatchParams

    def picture(self, setting: AttackSetting) -> tuple[BlendTrigger, Tensor]:
        shape = setting.train.shape
        side = max(1, round(self.params.patch_fraction * shape[1]))
        places = torch.zeros(4, 1, *shape[1:])
        for i in range(4):
            rows = slice(0, side) if i < 2 else slice(shape[1] - side, None)
            columns = slice(0, side) if i % 2 == 0 else slice(shape[2] - side, None)
            places[i, :, rows, columns] = 1
        trigger = BlendTrigger(
            torch.rand(shape, generator=setting.generator), places[list(_TESTED)].sum(0)
        )
        return trigger, places * torch.tensor(_OPACITIES).view(4, 1, 1, 1)

    def draw(self, count: int, parts: int, generator: torch.Generator) -> Tensor:
        kinds = torch.arange(count)[torch.randperm(count, generator=generator)] % parts
        return torch.nn.functional.one_hot(kinds, parts).bool()
