"""Logit distillation.

G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. 2015,
arXiv:1503.02531.

Implemented: variant ``hinton`` (section 2, with the T^2 factor the paper asks for), the form of
Zagoruyko and Komodakis' code with T = 4, alpha = 0.9; variant ``eq4``, Eq. 2-4 of RobustKD (Chen et
al. 2024, arXiv:2406.03409).

    hinton:  L = (1 - alpha) * CE(z_s, y) + alpha * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))
    eq4:     L = CE(z_s, y) + alpha * H(softmax(z_t / T), softmax(z_s / T))

Deviations from the paper: Hinton et al. give no weights; T and alpha are those customary since
attention transfer.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


def soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t/T) || softmax(z_s/T)) for logits (N, K): summed over classes, averaged over N;
    float32 scalar."""
    log_s = F.log_softmax(student.float() / temperature, 1)
    log_t = F.log_softmax(teacher.detach().float() / temperature, 1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-sum_k softmax(z_t/T)_k log softmax(z_s/T)_k for logits (N, K), averaged over N; float32
    scalar."""
    return F.cross_entropy(
        student.float() / temperature, F.softmax(teacher.detach().float() / temperature, 1)
    )


class KDParams(Params):
    temperature: float = Field(
        4.0, gt=0, le=100, description="softening T, divides logits; Zagoruyko & Komodakis code"
    )
    alpha: float = Field(
        0.9, ge=0, le=100, description="weight of the soft loss (hinton: at most 1); same code"
    )
    variant: Literal["hinton", "eq4"] = Field(
        "hinton",
        description="hinton: convex sum with T^2; eq4: RobustKD Eq. 2-4, soft cross-entropy "
        "without T^2",
    )

    @model_validator(mode="after")
    def _convex(self) -> KDParams:
        if self.variant == "hinton" and self.alpha > 1:
            raise ValueError(f"alpha={self.alpha} with variant='hinton' must be at most 1")
        return self


class KDObjective(nn.Module):
    """Weighted hard and soft losses; owns no parameters."""

    def __init__(self, params: KDParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "kd"}``, already weighted."""
        p = self.params
        hard = F.cross_entropy(student_out.logits.float(), batch.labels)
        if p.variant == "eq4":
            return {
                "ce": hard,
                "kd": p.alpha
                * soft_cross_entropy(student_out.logits, teacher_out.logits, p.temperature),
            }
        soft = soft_kl(student_out.logits, teacher_out.logits, p.temperature)
        return {"ce": (1 - p.alpha) * hard, "kd": p.alpha * p.temperature**2 * soft}


class KD(Distiller):
    """Distillation of softened logits."""

    info = Info(
        name="kd",
        title="Distilling the Knowledge in a Neural Network",
        authors="Hinton, Vinyals, Dean",
        venue="NIPS Deep Learning Workshop",
        year=2015,
        link="https://arxiv.org/abs/1503.02531",
    )
    Params = KDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "hinton": Variant("convex sum with T^2, as customary", {"variant": "hinton"}),
        "eq4": Variant("RobustKD's Eq. 2-4: soft cross-entropy without T^2", {"variant": "eq4"}),
    }
    params: KDParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> KDObjective:
        return KDObjective(self.params)
