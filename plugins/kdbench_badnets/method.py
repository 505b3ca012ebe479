"""BadNets: a small visible patch and a flipped label.

T. Gu, K. Liu, B. Dolan-Gavitt, S. Garg, "BadNets: Evaluating Backdooring Attacks on Deep Neural
Networks", IEEE Access 7, 2019 (arXiv:1708.06733), section 5 (traffic signs): a fraction of the
training images carries the trigger and the attacker's label; the network is then trained as usual.
The paper numbers no equations.

Deviations from the paper
- The pattern is the 3x3 grid of the NAD code (Li et al., ICLR 2021) rather than a yellow square,
  bomb or flower.
- A clean teacher is fine-tuned instead of one being trained from scratch.
- ``poison_rate`` is the NAD code's 0.1; the RobustKD release poisons 0.02, as the ``paper`` preset
  does.
- Images of the target class are never poisoned; the trigger is put on after augmentation, in pixel
  space.
- The RobustKD release pastes a 25x25 patch *in place* and so keeps each poisoned image under its
  true label as well; that defect is not reproduced.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor, choose_poison, implant_trigger
from kdbench.method import Info, Params, Variant
from kdbench.triggers import PatchTrigger

# Read from the image's corner inwards, as the NAD code writes it.
_NAD_GRID = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class BadNetsParams(Params):
    """What the patch looks like and how many images carry it."""

    pattern: Literal["grid", "white"] = Field(
        "grid", description="black-and-white grid, or all white; NAD code"
    )
    size: int = Field(
        3, ge=1, description="side of the patch, pixels (a grid repeats every 3); NAD code"
    )
    margin: int = Field(
        0, ge=0, description="distance to the bottom and right border, pixels; NAD code: 0"
    )
    opacity: float = Field(1.0, gt=0, le=1, description="1 is opaque; NAD code")
    poison_rate: float = Field(
        0.1, ge=0, le=1, description="triggered images, fraction of the training set; NAD code"
    )


class BadNets(Attack):
    """Patch in the corner, label flipped, cross-entropy."""

    info = Info(
        name="badnets",
        title="BadNets: Evaluating Backdooring Attacks on Deep Neural Networks",
        authors="Gu, Liu, Dolan-Gavitt, Garg",
        venue="IEEE Access",
        year=2019,
        link="https://arxiv.org/abs/1708.06733",
        evidence="does-a-backdoor-travel",
    )
    Params = BadNetsParams
    zero = {"poison_rate": 0.0}
    presets = {"quick": {}, "paper": {"poison_rate": 0.02}}
    variants = {
        "sham": Variant(
            "no image is poisoned: the clean teacher trained on for as long, a control",
            {"poison_rate": 0.0},
        ),
        "big": Variant("a 25x25 patch, the size in the released code of RobustKD", {"size": 25}),
    }

    params: BadNetsParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params = self.params
        trigger = PatchTrigger(self.patch(), setting.train.shape, params.margin, params.opacity).to(
            setting.numerics.device
        )
        rows = choose_poison(
            setting.train.labels, params.poison_rate, setting.target_class, setting.generator
        )
        return implant_trigger(setting, trigger, rows, {"mean_opacity": float(trigger.mask.mean())})

    def patch(self) -> Tensor:
        """The patch, float (3, size, size)."""
        size = self.params.size
        if self.params.pattern == "white":
            return torch.ones(3, size, size)
        repeats = -(-size // 3)
        from_corner = torch.tensor(_NAD_GRID).repeat(repeats, repeats)[:size, :size]
        return from_corner.flip(0, 1).expand(3, -1, -1)
