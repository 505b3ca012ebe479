"""The parameters of SCAR, and what its surrogate and its teacher minimise."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from kdbench.data.base import Batch
from kdbench.logits import soft_kl
from kdbench.method import Params
from kdbench.models.base import FeatureModel
from kdbench.search_steps import target_loss
from kdbench.trigger_search import frozen
from kdbench.triggers import AddTrigger
from kdbench_scar.implicit import Weights, logit_change, slope, tilt, weights_of


class SCARParams(Params):
    """How strong the trigger is, the surrogate student, and how the teacher is trained."""

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
        description="non-target images, in percent, that each network of the search takes for the "
        "target when it ends; SCAR's code",
    )
    surrogate: str | None = Field(
        "resnet20",
        description="network of the surrogate student; none: there is no surrogate, as in OSCAR; "
        "kdbench",
    )
    surrogate_epochs: int = Field(
        50, ge=0, description="a new surrogate: its epochs; SCAR's code, in stage 1"
    )
    surrogate_lr: float = Field(
        0.001, gt=0, description="Adam learning rate of a surrogate; SCAR's code"
    )
    rounds: int = Field(200, ge=0, description="rounds of surrogate and teacher; SCAR's code")
    round_epochs: int = Field(
        1, ge=0, description="a round: epochs of the surrogate, which goes on; kdbench"
    )
    round_batches: int = Field(40, ge=1, description="a round: batches of the teacher; SCAR")
    teacher_lr: float = Field(
        0.0001, gt=0, description="a round: Adam learning rate of the teacher; SCAR's paper"
    )
    alpha: float = Field(1.0, ge=0, description="teacher: weight of triggered images; SCAR")
    beta: float = Field(1.0, ge=0, description="outer loss: weight of clean images; SCAR")
    gamma: float = Field(1.0, ge=0, description="outer loss: weight of triggered images; SCAR")
    delta: float = Field(1.0, ge=0, description="surrogate: weight of the teacher; SCAR")
    inner_step: float = Field(
        0.001,
        ge=0,
        description="length s of the surrogate's step that the implicit term looks ahead; 0: no "
        "implicit term; SCAR's code takes 100 of 1e-5",
    )
    epoch_factor: float = Field(
        1.0,
        ge=0,
        description="without a surrogate: length of the teacher's training, as a multiple of the "
        "preset's; kdbench",
    )


class Losses:
    """What surrogate and teacher minimise, on a batch of images as they are.

    Args:
        surrogate: None: the teacher has its direct terms alone.
    """

    def __init__(
        self,
        params: SCARParams,
        target: int,
        teacher: FeatureModel,
        trigger: AddTrigger,
        surrogate: FeatureModel | None = None,
    ) -> None:
        self.params, self.target = params, target
        self.teacher, self.trigger, self.surrogate = teacher, trigger, surrogate

    def of_teacher(self, batch: Batch) -> dict[str, Tensor]:
        """``{"ce", "triggered"}``, and ``"implicit"`` with a surrogate, weighted."""
        # Two passes, as in the code: each has the batch's statistics of its own images.
        logits = self.teacher(batch.images).float()
        triggered = self.teacher(self.trigger(batch.images)).float()
        terms = {
            "ce": F.cross_entropy(logits, batch.labels),
            "triggered": self.params.alpha * F.cross_entropy(triggered, batch.labels),
        }
        weight = self.params.inner_step * self.params.delta
        if self.surrogate is not None and weight > 0:
            terms["implicit"] = weight * tilt(logits, self.change(self.surrogate, batch))
        return terms

    def change(self, surrogate: FeatureModel, batch: Batch) -> Tensor:
        """d, float32 (N, K): how the surrogate's logits change where its outer loss rises most."""
        was_training = surrogate.training
        surrogate.eval()
        try:
            # In full precision, whatever the run's arithmetic is.
            with torch.autocast(batch.images.device.type, enabled=False):
                weights = weights_of(surrogate)
                direction = slope(lambda moved: self.outer(surrogate, moved, batch), weights)
                return logit_change(surrogate, batch.images, weights, direction)
        finally:
            surrogate.train(was_training)

    def outer(self, surrogate: FeatureModel, weights: Weights, batch: Batch) -> Tensor:
        """beta CE(F_s(x; w), y) + gamma CE(F_s(G(x); w), t). A scalar."""
        plain = functional_call(surrogate, weights, (batch.images,))
        triggered = functional_call(surrogate, weights, (self.trigger(batch.images),))
        return self.params.beta * F.cross_entropy(
            plain, batch.labels
        ) + self.params.gamma * target_loss(triggered, self.target)

    def ratio(self, batch: Batch) -> float:
        """Norm of the implicit term's gradient over that of the direct terms, in the teacher.

        0 where there is no implicit term. The teacher stays as it is.
        """
        # A copy, since a pass changes the batch norms.
        teacher = copy.deepcopy(self.teacher)
        terms = Losses(self.params, self.target, teacher, self.trigger, self.surrogate).of_teacher(
            batch
        )
        if "implicit" not in terms:
            return 0.0
        implicit, direct = (
            _norm(term, list(teacher.parameters()))
            for term in (terms.pop("implicit"), torch.stack([*terms.values()]).sum())
        )
        return implicit / max(direct, 1e-12)


def inner_loss(
    params: SCARParams, teacher: FeatureModel, surrogate: FeatureModel, batch: Batch
) -> dict[str, Tensor]:
    """``{"ce", "soft"}`` of a surrogate on clean images, weighted. The teacher is in eval mode."""
    with frozen(teacher) as known, torch.no_grad():
        soft = known(batch.images)
    logits = surrogate(batch.images).float()
    return {
        "ce": F.cross_entropy(logits, batch.labels),
        "soft": params.delta * soft_kl(logits, soft, 1.0),
    }


def _norm(term: Tensor, parameters: list[Tensor]) -> float:
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())
