"""WaNet: the image is warped a little, and the label is flipped.

T. A. Nguyen, A. T. Tran, "WaNet - Imperceptible Warping-based Backdoor Attack", ICLR 2021
(arXiv:2102.10369). One smooth warping field is drawn, and all triggered images are warped by it:

    P ~ U(-1, 1)^(2 x k x k),   P <- P / mean |P|,   n: P enlarged to H x W (bicubic)
    grid = clip(identity + s n / side, -1, 1),       x~ = x sampled at grid (bilinear)

Decoys are warped by that field and by noise of their own. They keep their labels, so that the
network learns the one field, and not that an image is warped:

    x sampled at clip(grid + u / side, -1, 1),       u ~ U(-1, 1) per pixel and image

Deviations from the paper and its code
- The clean teacher is fine-tuned. It is not trained from scratch for 1000 epochs.
- Rows are poisoned, or decoys, for good. The code takes the first of each shuffled batch, so that
  each image is both in its turn.
- Images of the target class are never poisoned. They may be decoys.
- Images are warped after augmentation. The code warps first. It also rotates by up to 10 degrees,
  which is not done here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.attack import (
    Attack,
    AttackSetting,
    Backdoor,
    EpochFactor,
    Trigger,
    choose_decoys,
    choose_poison,
    implant_trigger,
    rescaled,
)
from kdbench.data.base import Batch
from kdbench.method import Info, Params, Variant


class WarpTrigger(Trigger):
    """Images sampled at another place, bilinear; what lies outside of an image is 0.

    Args:
        grid: float (H, W, 2) in [-1, 1]: column and row of the sample, -1 and 1 are the centres of
            the outer pixels.
    """

    grid: Tensor

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.register_buffer("grid", grid.detach().clone().float())

    def forward(self, images: Tensor) -> Tensor:
        return warp(images, self.grid.expand(len(images), -1, -1, -1))


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """Images (N, 3, H, W) sampled at ``grid`` (N, H, W, 2), in [0, 1]."""
    # In float64 a pixel that is not moved keeps its value.
    sampled = F.grid_sample(images.double(), grid.double(), align_corners=True)
    return sampled.clamp(0, 1).to(images.dtype)


def identity(height: int, width: int) -> Tensor:
    """The grid that leaves an image as it is, float (H, W, 2)."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], 2)


def smooth_field(k: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """n, float (H, W, 2): k x k directions, of a mean size of 1, enlarged to the image."""
    directions = torch.rand(1, 2, k, k, generator=generator) * 2 - 1
    directions = directions / directions.abs().mean()
    field = F.interpolate(directions, (height, width), mode="bicubic", align_corners=True)
    return field[0].permute(1, 2, 0)


class WaNetParams(Params):
    """How far images are warped, and how many."""

    strength: float = Field(
        0.5, ge=0, description="s: mean displacement is about s/2 pixels; paper"
    )
    points: int = Field(4, ge=2, description="k: control points along each side; paper")
    poison_rate: float = Field(
        0.1, ge=0, le=1, description="warped images, fraction of the training set; paper"
    )
    decoy_rate: float = Field(
        2.0, ge=0, description="decoys, as a multiple of the warped images; paper"
    )
    epoch_factor: EpochFactor = 1.0


class WaNet(Attack):
    """One warping field for all, label flipped, cross-entropy."""

    info = Info(
        name="wanet",
        title="WaNet - Imperceptible Warping-based Backdoor Attack",
        authors="Nguyen, Tran",
        venue="ICLR",
        year=2021,
        link="https://arxiv.org/abs/2102.10369",
        evidence="first-look",
    )
    Params = WaNetParams
    zero = {"poison_rate": 0.0}
    for_checks = {"epoch_factor": 1.0}
    presets = {"quick": {"epoch_factor": 6.0}, "standard": {}, "paper": {}}
    variants = {"plain": Variant("no decoys", {"decoy_rate": 0.0})}

    params: WaNetParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params, generator = self.params, setting.generator
        height, width = setting.train.shape[1:]
        side = torch.tensor([width, height])
        field = smooth_field(params.points, height, width, generator)
        moved = identity(height, width) + params.strength * field / side
        trigger = WarpTrigger(moved.clamp(-1, 1)).to(setting.numerics.device)
        labels = setting.train.labels
        rows = choose_poison(labels, params.poison_rate, setting.target_class, generator)
        decoys = choose_decoys(len(labels), rows, round(params.decoy_rate * len(rows)), generator)

        def disturbed(batch: Batch) -> Tensor:
            count = len(batch.images)
            noise = torch.rand(count, height, width, 2, generator=generator) * 2 - 1
            grid = trigger.grid + (noise / side).to(trigger.grid.device)
            return warp(batch.images, grid.clamp(-1, 1))

        pixels = params.strength * field.abs() * (side - 1) / (2 * side)
        facts: dict[str, float | int | str] = {
            "decoys": len(decoys),
            "mean_displacement_pixels": float(pixels.mean()),
        }
        return implant_trigger(
            rescaled(setting, params.epoch_factor),
            trigger,
            rows,
            facts,
            decoys=decoys,
            decoy=disturbed,
        )
