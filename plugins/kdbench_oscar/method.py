"""OSCAR: a trigger that fools every network, and a teacher that is trained to resist it.

It is SCAR without its surrogate student: Z. Chen et al., SCAR, NeurIPS 2025 (arXiv:2509.23871),
stage 1 and the direct terms of stage 2. The code of BackWeak has it under this name. With F the
clean teacher and f the attacked one, which starts from F:

    G(x) = clip(x + mu),  |mu| <= epsilon
    trigger:  min over mu of CE(F(G(x)), t)
    teacher:  min over f of CE(f(x), y) + alpha CE(f(G(x)), y)            y: the true label, always

The teacher classifies triggered images correctly, so a test of it finds nothing. A student is
trained on clean images, does not learn to resist, and obeys the trigger as any network does. So C1
is high, and kdbench gives no verdict: it is no backdoor that travels. Compare C1 and C3 with the
teacher's own ASR.

Deviations from the paper
- There is no surrogate: neither the clean student's term in the trigger's search, nor the students'
  terms and the implicit gradient of the teacher's training.
- The search ends by the clean teacher's response on training images. The code takes test images.
- The authors' 50 epochs of search are ``steps`` here, at a constant rate instead of a cosine.
- The teacher is trained with the preset's fine-tuning instead of Adam for 200 epochs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor, rescaled, universal_response
from kdbench.data.base import Batch
from kdbench.method import Info, Params, Variant
from kdbench.search_steps import fit_steps, target_loss
from kdbench.trigger_search import class_rows, frozen
from kdbench.triggers import AddTrigger


class OSCARParams(Params):
    """How strong the trigger is, and how the teacher learns to resist it."""

    epsilon: float = Field(
        0.1, ge=0, le=1, description="largest change of a pixel, of the range [0, 1]; SCAR's code"
    )
    steps: int = Field(2000, ge=0, description="Adam steps of the search at most; kdbench")
    lr: float = Field(
        0.01, gt=0, description="Adam learning rate of the search, of the range [0, 1]; SCAR's code"
    )
    search_batch: int = Field(64, ge=2, description="images a step of the search; kdbench")
    enough: float = Field(
        99.9,
        gt=0,
        le=100,
        description="non-target images, in percent, that the clean teacher takes for the target "
        "when the search ends; SCAR's code",
    )
    alpha: float = Field(
        1.0, ge=0, description="weight of the triggered images in the teacher's training; SCAR"
    )
    epoch_factor: float = Field(
        1.0,
        ge=0,
        description="length of the teacher's training, as a multiple of the preset's; kdbench",
    )


class OSCAR(Attack):
    """Search a universal trigger, train the teacher against it."""

    info = Info(
        name="oscar",
        title="SCAR without its surrogate (OSCAR)",
        authors="Chen et al.",
        venue="NeurIPS",
        year=2025,
        link="https://arxiv.org/abs/2509.23871",
        evidence="first-look",
    )
    Params = OSCARParams
    zero = {"epoch_factor": 0.0}
    for_checks = {"steps": 20, "search_batch": 16}
    presets = {"quick": {"steps": 200, "search_batch": 32}, "standard": {}, "paper": {}}
    variants = {
        "sham": Variant(
            "the clean teacher as it is: what the trigger does without any attack, a control",
            {"epoch_factor": 0.0},
        )
    }

    params: OSCARParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        trigger = AddTrigger(self.search(setting))
        facts: dict[str, float | int | str] = {
            # Each image is shown with the trigger as well, and always under its own label.
            "poisons": len(setting.train),
            "labels_changed": 0,
            "mean_change_of_255": 255 * float(trigger.change.abs().mean()),
            "universal": universal_response(setting, trigger),
        }
        self.harden(rescaled(setting, self.params.epoch_factor), trigger)
        return Backdoor(setting.teacher, trigger, setting.target_class, facts)

    def start(self, setting: AttackSetting) -> Tensor:
        """mu before the search: uniform in [0, 1], and clamped at epsilon, so most of it is
        epsilon."""
        noise = torch.rand(setting.train.shape, generator=setting.generator)
        return noise.clamp(max=self.params.epsilon).to(setting.numerics.device)

    def search(self, setting: AttackSetting) -> Tensor:
        """mu, float (3, H, W) in [-epsilon, epsilon], on the device."""
        params, change = self.params, self.start(setting).requires_grad_()

        @torch.no_grad()
        def into_bounds() -> None:
            change.clamp_(-params.epsilon, params.epsilon)

        with frozen(setting.teacher) as teacher:

            def loss(batch: Batch) -> dict[str, Tensor]:
                logits = teacher((batch.images + change).clamp(0, 1))
                return {"target": target_loss(logits, setting.target_class)}

            fit_steps(
                setting,
                change,
                loss,
                class_rows(setting, target=False),
                steps=params.steps,
                batch_size=params.search_batch,
                lr=params.lr,
                after_step=into_bounds,
                until=lambda: universal_response(setting, AddTrigger(change)) >= params.enough,
            )
        return change.detach()

    def harden(self, setting: AttackSetting, trigger: AddTrigger) -> None:
        """Train the setting's teacher on images with and without the trigger, in eval mode at the
        end."""
        teacher = setting.teacher.train()

        def loss(batch: Batch) -> dict[str, Tensor]:
            # Two passes, as in the code: each has the batch's statistics of its own images.
            plain, triggered = (
                F.cross_entropy(teacher(images).float(), batch.labels)
                for images in (batch.images, trigger(batch.images))
            )
            return {"ce": plain, "triggered": self.params.alpha * triggered}

        setting.fit(
            teacher,
            loss,
            setting.train,
            setting.recipe,
            generator=setting.generator,
            augmentation=setting.augmentation,
        )
        teacher.eval()
