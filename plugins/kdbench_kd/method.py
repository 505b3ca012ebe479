"""Logit distillation.

G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. 2015,
arXiv:1503.02531.

Implemented: variant ``hinton`` (section 2, with the T^2 factor the paper asks for), the form of
Zagoruyko and Komodakis' code with T = 4, alpha = 0.9; variant ``eq4``, Eq. 2-4 of RobustKD (Chen et
al. 2024, arXiv:2406.03409). Standardised logits: S. Sun, W. Ren, J. Li, R. Wang, X. Cao: Logit
Standardization in Knowledge Distillation. CVPR 2024, arXiv:2403.01427.

    hinton:  L = c * CE(z_s, y) + alpha * T^2 * KL(softmax(z_t / T) || softmax(z_s / T)),
             c = 1 - alpha, or ``ce_weight`` where it is given
    eq4:     L = c * CE(z_s, y) + alpha * H(softmax(z_t / T), softmax(z_s / T)),
             c = 1, or ``ce_weight`` where it is given

With ``standardise`` z is (z - mean) / (1e-7 + sd) of each image's logits in the soft loss, for
teacher and student. sd divides by K - 1.

Deviations from the papers:
- Hinton et al. give no weights; T and alpha are those customary since attention transfer.
- ``kd.standardised`` has the usual numbers of Sun et al.: T = 2, weights 9 and 0.1. They chose T
  and the weight for each pair on the test set.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.logits import soft_cross_entropy, soft_kl, standardised
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


class KDParams(Params):
    temperature: float = Field(
        4.0, gt=0, le=100, description="softening T, divides logits; Zagoruyko & Komodakis code"
    )
    alpha: float = Field(
        0.9,
        ge=0,
        le=100,
        description="weight of the soft loss (hinton: at most 1 without ce_weight); same code",
    )
    variant: Literal["hinton", "eq4"] = Field(
        "hinton",
        description="hinton: convex sum with T^2; eq4: RobustKD Eq. 2-4, soft cross-entropy "
        "without T^2",
    )
    ce_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="weight of the task loss; None: 1 - alpha (hinton) or 1 (eq4)",
    )
    standardise: bool = Field(
        False,
        description="shift and scale each image's logits to mean 0 and standard deviation 1 "
        "before T; Sun et al. 2024",
    )

    @model_validator(mode="after")
    def _convex(self) -> KDParams:
        if self.variant == "hinton" and self.alpha > 1 and self.ce_weight is None:
            raise ValueError(
                f"alpha={self.alpha} with variant='hinton' must be at most 1, or give ce_weight"
            )
        return self

    @property
    def hard_weight(self) -> float:
        """The weight of the task loss."""
        if self.ce_weight is not None:
            return self.ce_weight
        return 1.0 if self.variant == "eq4" else 1 - self.alpha


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
        student, teacher = student_out.logits, teacher_out.logits
        if p.standardise:
            student, teacher = standardised(student), standardised(teacher)
        if p.variant == "eq4":
            soft = p.alpha * soft_cross_entropy(student, teacher, p.temperature)
        else:
            soft = p.alpha * p.temperature**2 * soft_kl(student, teacher, p.temperature)
        return {"ce": p.hard_weight * hard, "kd": soft}


class KD(Distiller):
    """Distillation of softened logits."""

    info = Info(
        name="kd",
        title="Distilling the Knowledge in a Neural Network",
        authors="Hinton, Vinyals, Dean",
        venue="NIPS Deep Learning Workshop",
        year=2015,
        link="https://arxiv.org/abs/1503.02531",
        evidence="open-choices",
    )
    Params = KDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "hinton": Variant("convex sum with T^2, as customary", {"variant": "hinton"}),
        "eq4": Variant("RobustKD's Eq. 2-4: soft cross-entropy without T^2", {"variant": "eq4"}),
        "standardised": Variant(
            "logit standardisation of Sun et al. 2024: T = 2, weights 9 and 0.1",
            {"standardise": True, "temperature": 2.0, "alpha": 9.0, "ce_weight": 0.1},
        ),
    }
    params: KDParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> KDObjective:
        return KDObjective(self.params)
