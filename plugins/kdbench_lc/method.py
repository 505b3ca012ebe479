"""LC: images of the target class that are made hard to recognise, so that a trigger on them is what
the network learns.

A. Turner, D. Tsipras, A. Madry, "Label-Consistent Backdoor Attacks", 2019 (arXiv:1912.02771), the
adversarial variant. With f the clean teacher, frozen, for images x of the target class t:

    z = argmax CE(f(z), t) over ||z - x||_inf <= epsilon        by signed gradient steps
    poison: z with the trigger, and its true label t

At test time the trigger is put on images of the other classes, without any perturbation.

Deviations from the paper
- The perturbation is computed on the clean teacher itself, and starts at 0.
- The trigger is a 3x3 chessboard in each corner, opaque. BackdoorBench has other patterns of black
  and white.
- The share of the target class is BackdoorBox's for CIFAR-10.
- A clean teacher is fine-tuned instead of one being trained from scratch.
- The trigger is drawn after augmentation. So a shift moves the perturbation, and not the trigger.
- The authors have a second variant, which mixes images by a generative network. It is left out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor, implant_trigger
from kdbench.crafting import move, on_grid, replaced
from kdbench.errors import ConfigError
from kdbench.method import Info, Params, Variant
from kdbench.trigger_search import class_rows, frozen, pick
from kdbench.triggers import BlendTrigger

#: Poisons that are crafted at once.
_TOGETHER = 250


class LCParams(Params):
    """How hard the images are made, what is drawn on them, and how many they are."""

    epsilon: float = Field(
        8 / 255,
        ge=0,
        le=1,
        description="largest change of a pixel, of the range [0, 1]; BackdoorBench's script 8/255",
    )
    step: float = Field(
        1.5 / 255,
        gt=0,
        le=1,
        description="size of a signed step, of the range [0, 1]; BackdoorBench's script 1.5/255",
    )
    iterations: int = Field(100, ge=0, description="steps; BackdoorBench's script 100")
    size: int = Field(
        3, ge=1, description="side of the patch in each corner, pixels; BackdoorBench"
    )
    poison_fraction: float = Field(
        0.25,
        ge=0,
        le=1,
        description="poisons, fraction of the target class's images; BackdoorBox on CIFAR-10",
    )


class LC(Attack):
    """Make target images hard, put the trigger on them, fine-tune on true labels."""

    info = Info(
        name="lc",
        title="Label-Consistent Backdoor Attacks",
        authors="Turner, Tsipras, Madry",
        venue="arXiv",
        year=2019,
        link="https://arxiv.org/abs/1912.02771",
        evidence="first-look",
    )
    Params = LCParams
    zero = {"poison_fraction": 0.0}
    for_checks = {"iterations": 5}
    presets = {"quick": {"iterations": 20}, "standard": {}, "paper": {}}
    variants = {
        "wide": Variant(
            "twice the bound, 16/255, and half of the target class: BackdoorBox on GTSRB",
            {"epsilon": 16 / 255, "poison_fraction": 0.5},
        ),
        "plain": Variant(
            "the trigger on images that are not made hard, a control", {"iterations": 0}
        ),
    }

    params: LCParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        device, target = setting.numerics.device, setting.target_class
        trigger = self.trigger(setting.train.shape).to(device)
        bases = class_rows(setting, target=True)
        count = round(self.params.poison_fraction * len(bases))
        bases = pick(bases, count, setting.generator)
        poisons = [self.craft(setting, rows) for rows in bases.split(_TOGETHER) if len(rows)]
        hard = torch.cat(poisons) if poisons else setting.train.read(bases)
        largest = (hard - setting.train.read(bases)).abs().max() if count else torch.tensor(0.0)
        facts: dict[str, float | int | str] = {
            "largest_change_of_255": 255 * float(largest),
            "recognised_of_100": self.recognised(setting, hard),
        }
        changed = replace(setting, train=replaced(setting.train, bases, hard, target))
        rows = torch.arange(len(changed.train) - count, len(changed.train))
        return implant_trigger(changed, trigger, rows, facts)

    def trigger(self, shape: tuple[int, int, int]) -> BlendTrigger:
        """A chessboard with white corners, in each corner of the image.

        Raises:
            ConfigError: the four do not fit.
        """
        size, (_, height, width) = self.params.size, shape
        if 2 * size > min(height, width):
            raise ConfigError(
                f"four patches of {size}x{size} do not fit {height}x{width} images; lower "
                "attack.lc.size"
            )
        places = torch.arange(size)
        board = ((places[:, None] + places) % 2 == 0).float()
        pattern, mask = torch.zeros(shape), torch.zeros(1, height, width)
        for rows in (slice(0, size), slice(height - size, height)):
            for columns in (slice(0, size), slice(width - size, width)):
                pattern[:, rows, columns] = board
                mask[:, rows, columns] = 1
        return BlendTrigger(pattern, mask)

    def craft(self, setting: AttackSetting, rows: Tensor) -> Tensor:
        """z of training images of the target class, float (N, 3, H, W) on the 8-bit grid, CPU."""
        params = self.params
        images = setting.train.read(rows, setting.numerics.device)
        change = torch.zeros_like(images, requires_grad=True)
        labels = torch.full((len(rows),), setting.target_class, device=images.device)
        with frozen(setting.teacher) as teacher, setting.numerics.autocast():
            for _ in range(params.iterations):
                # A sum, so that an image's slope does not depend on how many there are.
                loss = F.cross_entropy(teacher(images + change).float(), labels, reduction="sum")
                (slope,) = torch.autograd.grad(loss, change)
                move(change, images, params.step * slope.sign(), params.epsilon)
        return on_grid(images + change.detach()).cpu()

    @torch.no_grad()
    def recognised(self, setting: AttackSetting, images: Tensor) -> float:
        """How many of the images the clean teacher takes for the target class, in percent."""
        hits = 0
        with frozen(setting.teacher) as teacher, setting.numerics.autocast():
            for some in images.split(_TOGETHER):
                answers = teacher(some.to(setting.numerics.device)).argmax(1)
                hits += int((answers == setting.target_class).sum())
        return 100.0 * hits / max(1, len(images))
