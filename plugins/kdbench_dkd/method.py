"""Decoupled knowledge distillation ("DKD"): the true class and the other classes are taught apart.

B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang: Decoupled Knowledge Distillation. CVPR 2022,
arXiv:2203.08679. Standardised logits: S. Sun, W. Ren, J. Li, R. Wang, X. Cao: Logit Standardization
in Knowledge Distillation. CVPR 2024, arXiv:2403.01427.

Implemented: both terms of the paper's section 3, in the form of the authors' code.

    p = softmax(z / T),  b = (p_y, 1 - p_y),  q = softmax of z / T without the class y
    TCKD = T^2 * mean_B KL(b_t || b_s),  NCKD = T^2 * mean_B KL(q_t || q_s)
    L = c * CE(z_s, y) + w * (alpha * TCKD + beta * NCKD)
        w = min(progress / warmup, 1), progress the share of the steps that are done

With ``standardise`` z is (z - mean) / (1e-7 + sd) of each image's logits, in the place of z in TCKD
and NCKD, for teacher and student. sd divides by K - 1.

Deviations from the paper:
- The authors' weight grows over the first 20 of 240 epochs, from epoch to epoch. Here it grows over
  the first twelfth of the steps, from step to step.
- q leaves the class y out. The authors' code subtracts 1000 from its logit, which is the same in
  exact arithmetic.
- beta was chosen for each pair on the test set: 8 for ResNet-32x4 to 8x4, 6 for WRN-40-2 to 16-2, 2
  for ResNet-56 to 20. Here it is 8 for all pairs.
- ``dkd.standardised`` multiplies alpha and beta by 9 and takes T = 2, and the task loss keeps its
  weight. The paper chooses both for each pair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.logits import standardised
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of logits (N, K), each times T^2 and averaged over N; float32 scalars.

    Args:
        student, teacher: logits; only ``student`` gets a gradient.
        labels: the true classes, int64 (N,).
        temperature: T.
    """
    own = labels.unsqueeze(1)
    # The other classes by their index: a mask would make a GPU wait.
    others = torch.arange(student.shape[1] - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= own)

    def logs(logits: Tensor) -> tuple[Tensor, Tensor]:
        """log b (N, 2) and log q (N, K - 1)."""
        z = logits.float() / temperature
        rest = z.gather(1, others)
        binary = torch.cat([z.gather(1, own), rest.logsumexp(1, keepdim=True)], 1)
        return F.log_softmax(binary, 1), F.log_softmax(rest, 1)

    pairs = zip(logs(student), logs(teacher.detach()), strict=True)
    target, rest = (
        temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in pairs
    )
    return target, rest


class DKDParams(Params):
    temperature: float = Field(
        4.0, gt=0, le=100, description="softening T, divides logits; authors' code"
    )
    alpha: float = Field(
        1.0, ge=0, le=1000, description="weight of TCKD, the true class against all others; paper"
    )
    beta: float = Field(
        8.0,
        ge=0,
        le=1000,
        description="weight of NCKD, the other classes among each other; paper, which has 8, 6 or "
        "2 for a pair",
    )
    ce_weight: float = Field(
        1.0, ge=0, le=100, description="weight of the task loss; authors' code"
    )
    warmup: float = Field(
        0.083,
        ge=0,
        le=1,
        description="share of the steps over which the weight of both terms grows from 0; "
        "authors' code, 20 of 240 epochs",
    )
    standardise: bool = Field(
        False,
        description="shift and scale each image's logits to mean 0 and standard deviation 1 "
        "before T; Sun et al. 2024",
    )


class DKDObjective(nn.Module):
    """The task loss and both weighted terms; owns no parameters."""

    def __init__(self, params: DKDParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "tckd", "nckd"}``, float32 scalars, already weighted."""
        p = self.params
        student, teacher = student_out.logits, teacher_out.logits
        if p.standardise:
            student, teacher = standardised(student), standardised(teacher)
        target, rest = decoupled(student, teacher, batch.labels, p.temperature)
        hard = F.cross_entropy(student_out.logits.float(), batch.labels)
        grown = min(batch.progress / p.warmup, 1.0) if p.warmup else 1.0
        return {
            "ce": p.ce_weight * hard,
            "tckd": grown * p.alpha * target,
            "nckd": grown * p.beta * rest,
        }


class DKD(Distiller):
    """Distillation of the true class and of the other classes apart."""

    info = Info(
        name="dkd",
        title="Decoupled Knowledge Distillation",
        authors="Zhao, Cui, Song, Qiu, Liang",
        venue="CVPR",
        year=2022,
        link="https://arxiv.org/abs/2203.08679",
        evidence="first-look",
    )
    Params = DKDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "standardised": Variant(
            "logit standardisation of Sun et al. 2024: T = 2, both weights times 9",
            {"standardise": True, "temperature": 2.0, "alpha": 9.0, "beta": 72.0},
        )
    }
    params: DKDParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> DKDObjective:
        return DKDObjective(self.params)
