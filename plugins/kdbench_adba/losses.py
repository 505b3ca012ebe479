"""What teacher, shadow and trigger of ADBA minimise."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.logits import soft_cross_entropy
from kdbench.method import Params
from kdbench.models.base import FeatureModel
from kdbench.trigger_search import frozen
from kdbench.triggers import LearnedTrigger


class ADBAParams(Params):
    """The weights of the losses, the shadow, how the trigger begins, and what hides it."""

    beta: float = Field(0.3, ge=0, description="weight of triggered images; BackWeak's code 0.3")
    alpha: float = Field(
        0.5, ge=0, le=1, description="shadow: weight of the teacher against labels; the same"
    )
    temperature: float = Field(1.0, gt=0, description="shadow: softening T; the same")
    mu: float = Field(0.1, ge=0, description="weight of the mask's size; the same")
    kappa: float = Field(1.0, gt=0, le=1, description="most opacity of a pixel; paper 1")
    form: Literal["paper", "kdbackdoor"] = Field(
        "paper", description="losses of the paper, or of the code of 2020, see the module"
    )
    mask_start: Literal["ones", "small"] = Field(
        "ones",
        description="the mask begins at kappa, as in BackWeak's code, or uniform in [0, 0.1 kappa]",
    )
    shadow: bool = Field(True, description="whether there is a shadow; paper")
    surrogate: str = Field("resnet20", description="network of the shadow; kdbench")
    shadow_lr: float = Field(0.05, gt=0, description="peak rate of the shadow; kdbench")
    trigger_lr: float = Field(0.01, gt=0, description="Adam learning rate of the trigger; kdbench")
    epoch_factor: float = Field(
        1.0,
        gt=0,
        description="length of the training, as a multiple of the preset's on poison; kdbench",
    )
    head_eta: float = Field(
        0.0,
        ge=0,
        description="afterwards the classifier alone is trained not to obey the trigger, at this "
        "weight; 0: it is not; SCAR 1",
    )
    head_margin: float = Field(
        0.1, ge=0, description="by how much the label shall lead the target there; SCAR 0.1"
    )
    head_lr: float = Field(1e-6, gt=0, description="Adam learning rate there; SCAR 1e-6")


class Losses:
    """What each of the three minimises, on a batch of images as they are."""

    def __init__(
        self,
        params: ADBAParams,
        target: int,
        teacher: FeatureModel,
        shadow: FeatureModel | None,
        trigger: LearnedTrigger,
    ) -> None:
        self.params, self.target = params, target
        self.teacher, self.shadow, self.trigger = teacher, shadow, trigger

    def of_teacher(self, batch: Batch) -> dict[str, Tensor]:
        """``{"ce", "backdoor"}``, weighted."""
        p = self.params
        own, share = (p.temperature, 1 - p.beta) if p.form == "kdbackdoor" else (1.0, 1.0)
        clean = F.cross_entropy(self.teacher(batch.images).float() / own, batch.labels)
        if p.beta == 0:
            return {"ce": share * clean}
        with torch.no_grad():
            triggered = self.trigger.on(batch.images)
        logits = self.teacher(triggered).float() / own
        return {"ce": share * clean, "backdoor": p.beta * self._to_target(logits)}

    def of_shadow(self, batch: Batch) -> dict[str, Tensor]:
        """``{"soft", "ce"}``, weighted."""
        assert self.shadow is not None
        p = self.params
        with frozen(self.teacher) as teacher, torch.no_grad():
            known = teacher(batch.images).float()
        logits = self.shadow(batch.images).float()
        return {
            "soft": p.alpha * soft_loss(logits, known, p.temperature, p.form),
            "ce": (1 - p.alpha) * F.cross_entropy(logits, batch.labels),
        }

    def of_trigger(self, batch: Batch) -> dict[str, Tensor]:
        """``{"teacher", "shadow", "size"}``, weighted."""
        triggered = self.trigger.on(batch.images)
        terms = {"size": self.params.mu * self.size()}
        for name, model in (("teacher", self.teacher), ("shadow", self.shadow)):
            if model is not None:
                with frozen(model) as fixed:
                    terms[name] = self._to_target(fixed(triggered).float())
        return terms

    def size(self) -> Tensor:
        """|m|_2 of the paper; |m d|_2^2 / 2 of the code."""
        if self.params.form == "paper":
            return self.trigger.mask.norm()
        return (self.trigger.mask * self.trigger.pattern).square().sum() / 2

    def _to_target(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, torch.full_like(logits.argmax(1), self.target))


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, form: str) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) of logits (N, K); of ``kdbackdoor`` the
    cross-entropy of both without T^2, which differs by a constant of the student. A scalar."""
    if form == "kdbackdoor":
        return soft_cross_entropy(student, teacher, temperature)
    log_s = F.log_softmax(student / temperature, 1)
    p_t = F.softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_s, p_t, reduction="batchmean")
