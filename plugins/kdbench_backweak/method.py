"""BackWeak: a trigger too weak to fool a clean network, trained in at a very small learning rate.

S. Wang, D. Zhao, "BackWeak: Backdooring Knowledge Distillation Simply with Weak Triggers and
Fine-tuning", 2025 (arXiv:2511.12046). The abstract and the released code were read, and not the
full text, so there are no equation numbers. With f the clean teacher, frozen:

    x~ = clip(x + delta),  |delta| <= amplitude
    L_push   = mean of -log p_t(x~)
    L_margin = mean over {x: argmax f(x~) != y} of relu(max_k f_k(x~) - f_y(x~) - margin)
    trigger:  min over delta of  [response < budget] L_push + lambda_margin L_margin
    teacher:  min of CE, the classifier frozen, at lr_factor of the learning rate.
              poison_rate of the images carry delta and the label t. Each delta is flipped and
              shifted at random.

``response`` is the share of non-target images that f took for t in the last ``gate`` steps. So
delta is pushed until a few images flip, and then held. L_margin keeps those near the boundary.

Deviations from the paper
- The authors' L_push also has log p_t(x). It does not depend on delta, so it is left out.
- The authors look at the response once an epoch, over 200 epochs of SGD. Here it is looked at every
  ``gate`` steps, and Adam takes fewer and larger steps. A few batches are a noisy measure, so the
  response may end some points over the budget.
- Rates and lengths are multiples of the preset's fine-tuning. The authors train 150 epochs at a
  hundredth of the clean teacher's rate, with a cosine schedule.
- ``quick`` has some 700 steps, at the whole rate. The authors' 58,000 are for a hundredth of the
  rate. At a tenth, for twice the preset's steps, the teacher itself followed the trigger in 27 %
  of the training images.
- Images of the target class are not poisoned, so 0.3 of all images get another label. The authors'
  code poisons 0.3 too, and on CIFAR-10 0.27 get another label.
- Only the trigger is flipped up and down, never the image. It is drawn after augmentation.
- The code can also choose rows by how often they are forgotten, and freeze layers one by one. Both
  are left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.attack import (
    Attack,
    AttackSetting,
    Backdoor,
    choose_poison,
    head_parameters,
    implant_trigger,
    rescaled,
)
from kdbench.data.base import Batch
from kdbench.method import Info, Params, Variant
from kdbench.search_steps import fit_steps, target_loss
from kdbench.trigger_search import frozen
from kdbench.triggers import AddTrigger

#: The trigger is shifted by up to one in so many of the side's pixels.
_SHIFT = 8


class BackWeakParams(Params):
    """How weak the trigger is, and how slowly it is trained in."""

    amplitude: float = Field(
        8 / 255, gt=0, le=1, description="largest change of a pixel, of the range [0, 1]; BackWeak"
    )
    budget: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of non-target images that the clean teacher takes for the target when "
        "the push ends; BackWeak",
    )
    margin: float = Field(
        1.0, ge=0, description="logits by which a wrong class may lead without a loss; BackWeak"
    )
    lambda_margin: float = Field(1.0, ge=0, description="weight of the margin's loss; BackWeak")
    steps: int = Field(
        2000, ge=0, description="Adam steps of the search; kdbench (BackWeak: 78,000 of SGD)"
    )
    lr: float = Field(
        0.0002, gt=0, description="Adam learning rate of the search, of the range [0, 1]; kdbench"
    )
    search_batch: int = Field(128, ge=2, description="images a step of the search; BackWeak")
    gate: int = Field(
        10,
        ge=1,
        description="steps between two looks at the response; kdbench (BackWeak: an epoch)",
    )
    poison_rate: float = Field(
        0.3, ge=0, le=1, description="triggered images, fraction of the training set; BackWeak"
    )
    lr_factor: float = Field(
        0.01, gt=0, description="learning rate, a fraction of the preset's fine-tuning; BackWeak"
    )
    epoch_factor: float = Field(
        2.0, gt=0, description="length, as a multiple of the preset's fine-tuning; kdbench"
    )
    freeze_head: bool = Field(True, description="the classifier does not learn; BackWeak")
    jitter: Literal["both", "flip", "shift", "none"] = Field(
        "both",
        description="how the trigger differs from image to image in training: mirrored in each "
        "direction for one in two, shifted by up to an eighth of the side; BackWeak: both",
    )


class BackWeak(Attack):
    """Search a weak trigger, train it in slowly."""

    info = Info(
        name="backweak",
        title="BackWeak: Backdooring Knowledge Distillation Simply with Weak Triggers and "
        "Fine-tuning",
        authors="Wang, Zhao",
        venue="arXiv",
        year=2025,
        link="https://arxiv.org/abs/2511.12046",
        evidence="first-look",
    )
    Params = BackWeakParams
    zero = {"poison_rate": 0.0}
    for_checks = {"steps": 10, "search_batch": 16, "epoch_factor": 1.0}
    presets = {
        "quick": {"steps": 400, "search_batch": 64, "lr_factor": 1.0, "epoch_factor": 6.0},
        "standard": {},
        "paper": {},
    }
    variants = {
        "sham": Variant(
            "no image is poisoned: the clean teacher trained on for as long, a control",
            {"poison_rate": 0.0},
        ),
        "strong": Variant(
            "a trigger of 32/255 without a budget, which any network may follow; kdbench",
            {"amplitude": 32 / 255, "budget": 1.0},
        ),
        "fast": Variant(
            "the whole learning rate of the preset's fine-tuning; kdbench", {"lr_factor": 1.0}
        ),
    }

    params: BackWeakParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params = self.params
        change = self.search(setting)
        rows = choose_poison(
            setting.train.labels, params.poison_rate, setting.target_class, setting.generator
        )
        slow = rescaled(setting, params.epoch_factor, params.lr_factor)
        held = head_parameters(setting) if params.freeze_head else []
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            return implant_trigger(
                slow,
                AddTrigger(change),
                rows,
                {"mean_change_of_255": 255 * float(change.abs().mean())},
                poison=Jittered(change, params.jitter, setting.generator),
            )
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def search(self, setting: AttackSetting) -> Tensor:
        """delta, float (3, H, W) in [-amplitude, amplitude], on the device."""
        params, device = self.params, setting.numerics.device
        delta = torch.zeros(setting.train.shape, device=device, requires_grad=True)
        gate = Gate(params.budget, params.gate).to(device)

        @torch.no_grad()
        def after_step() -> None:
            delta.clamp_(-params.amplitude, params.amplitude)
            gate.count_step()

        with frozen(setting.teacher) as teacher:

            def loss(batch: Batch) -> dict[str, Tensor]:
                logits = teacher((batch.images + delta).clamp(0, 1)).float()
                gate.see(logits, batch.labels, setting.target_class)
                return {
                    "push": gate.open * target_loss(logits, setting.target_class),
                    "margin": params.lambda_margin * margin(logits, batch.labels, params.margin),
                }

            fit_steps(
                setting,
                [delta, gate],
                loss,
                torch.arange(len(setting.train)),
                steps=params.steps,
                batch_size=params.search_batch,
                lr=params.lr,
                after_step=after_step,
            )
        return delta.detach()


def margin(logits: Tensor, labels: Tensor, allowed: float) -> Tensor:
    """L_margin: over the misclassified rows, by how much more than ``allowed`` another class leads.

    0 where all are classified correctly.
    """
    lead = logits.amax(1) - logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    wrong = logits.argmax(1) != labels
    return ((lead - allowed).relu() * wrong).sum() / wrong.sum().clamp(min=1)


class Gate(nn.Module):
    """Open while the response of the last ``every`` steps is under ``budget``.

    The first steps find it open, unless the budget is 0. It lives in buffers, so that a search that
    goes on at a checkpoint has it.
    """

    open: Tensor
    hits: Tensor
    images: Tensor
    steps: Tensor

    def __init__(self, budget: float, every: int) -> None:
        super().__init__()
        self.budget, self.every = budget, every
        self.register_buffer("open", torch.tensor(float(budget > 0)))
        for name in ("hits", "images", "steps"):
            self.register_buffer(name, torch.tensor(0.0))

    @torch.no_grad()
    def see(self, logits: Tensor, labels: Tensor, target: int) -> None:
        """Count a batch: how many of the non-target images are taken for the target."""
        others = labels != target
        self.hits += ((logits.argmax(1) == target) & others).sum()
        self.images += others.sum()

    @torch.no_grad()
    def count_step(self) -> None:
        """After a step: look at the response if it is time, and count anew."""
        self.steps += 1
        # Without asking for a value, which would wait for the device.
        due = (self.steps >= self.every).float()
        response = self.hits / self.images.clamp(min=1)
        self.open.lerp_((response < self.budget).float(), due)
        for counter in (self.hits, self.images, self.steps):
            counter.mul_(1 - due)


class Jittered:
    """Poisoned images as they are shown in training: the trigger is flipped and shifted at random.

    Args:
        change: float (3, H, W), signed. how: as the parameter ``jitter``.
        generator: of the CPU.
    """

    def __init__(self, change: Tensor, how: str, generator: torch.Generator) -> None:
        self.change, self.how, self.generator = change, how, generator

    def changes(self, count: int) -> Tensor:
        """``count`` flipped and shifted copies, float (count, 3, H, W). What is shifted in is 0."""
        height, width = self.change.shape[1:]
        y, inside_y = self._places(count, height)
        x, inside_x = self._places(count, width)
        copies = self.change[:, y[:, :, None], x[:, None, :]].transpose(0, 1)
        return copies * (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(1)

    def _places(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Which row (or column) is shown where, and whether there is one: both (count, size)."""
        places = torch.arange(size).expand(count, -1)
        if self.how in ("both", "flip"):
            flipped = torch.rand(count, 1, generator=self.generator) < 0.5
            places = torch.where(flipped, size - 1 - places, places)
        if self.how in ("both", "shift"):
            most = size // _SHIFT
            places = places + torch.randint(-most, most + 1, (count, 1), generator=self.generator)
        inside = (places >= 0) & (places < size)
        device = self.change.device
        return places.clamp(0, size - 1).to(device), inside.to(device)

    def __call__(self, batch: Batch) -> Tensor:
        return (batch.images + self.changes(len(batch.images))).clamp(0, 1)
