"""Correlation congruence ("CC"): how the images of a batch relate, in an embedding.

B. Peng, X. Jin, J. Liu, S. Zhou, Y. Wu, Y. Liu, D. Li, Z. Zhang: Correlation Congruence for
Knowledge Distillation. ICCV 2019, arXiv:1904.01802.

Two different losses have this name, and both are here:

    f = the pooled features of an image, e = V f + v, with an own V and v of student and teacher
    release:  D_i = |e_s,i - e_t,i|, entry by entry
              L_CC = mean over i < B of <D_i, D_(i+1)>
    paper:    u = e / ||e||,  k(i, j) = exp(-2 g) * sum over p <= P of (2 g)^p / p! * <u_i, u_j>^p
              L_CC = mean over i, j of (k of the student - k of the teacher)^2
    L = CE(z_s, y) + weight * L_CC

``release`` (default) is RepDistiller's, because published numbers are its. ``paper`` is the paper's
Gaussian kernel as a Taylor series, with torchdistill's numbers.

Deviations from the paper:
- ``release`` compares neighbours in the batch, so its value depends on the order of the images.
- In ``release`` both embeddings are trained, the teacher's too. Embeddings that are one constant
  cost nothing, whatever the teacher is. So little of the teacher may reach the student: compare a
  row with C2, the student without a teacher.
- ``paper`` trains the teacher's embedding, too. The sum with logit distillation is left out.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


def neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """L_CC of ``release`` for embeddings (N, E); 0 for one image."""
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def kernel(embeddings: Tensor, gamma: float, order: int) -> Tensor:
    """k of ``paper`` for embeddings (N, E), each divided by its length: (N, N)."""
    unit = F.normalize(embeddings, dim=1)
    cosine = unit @ unit.T
    series = sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


class CCParams(Params):
    variant: Literal["release", "paper"] = Field(
        "release",
        description="release: products of neighbours in the batch, RepDistiller; paper: a Gaussian "
        "kernel of all pairs",
    )
    weight: float = Field(
        0.02, ge=0, description="weight of L_CC; RepDistiller; torchdistill's paper form: 0.003"
    )
    dimensions: int = Field(
        128, ge=1, le=4096, description="of an embedding; RepDistiller; torchdistill: 256"
    )
    gamma: float = Field(
        0.4, gt=0, le=100, description="width g of the kernel; paper only; torchdistill"
    )
    order: int = Field(
        2, ge=1, le=10, description="order P of the Taylor series; paper only; torchdistill"
    )


class CCObjective(nn.Module):
    """The task loss and the weighted L_CC; owns both embeddings."""

    def __init__(self, teacher: FrozenTeacher, student: FeatureModel, params: CCParams) -> None:
        super().__init__()
        self.params = params
        # Functions, since a network must not be a part of the objective.
        self.pooled = (teacher.pooled, student.pooled)
        self.student_embedding = nn.Linear(student.tap_channels[-1], params.dimensions)
        self.teacher_embedding = nn.Linear(teacher.tap_channels[-1], params.dimensions)

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "cc"}``, float32 scalars; ``cc`` is weighted already."""
        p, (of_teacher, of_student) = self.params, self.pooled
        with torch.autocast(batch.labels.device.type, enabled=False):
            student = self.student_embedding(of_student(student_out).float())
            teacher = self.teacher_embedding(of_teacher(teacher_out).detach().float())
            if p.variant == "release":
                distance = neighbours(student, teacher)
            else:
                pair = (kernel(e, p.gamma, p.order) for e in (student, teacher))
                distance = F.mse_loss(*pair)
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "cc": p.weight * distance,
        }


class CC(Distiller):
    """Distillation of the correlations between images."""

    info = Info(
        name="cc",
        title="Correlation Congruence for Knowledge Distillation",
        authors="Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang",
        venue="ICCV",
        year=2019,
        link="https://arxiv.org/abs/1904.01802",
        evidence="first-look",
    )
    Params = CCParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "release": Variant("products of neighbours in the batch", {"variant": "release"}),
        "paper": Variant(
            "the paper's kernel of all pairs, with torchdistill's numbers",
            {"variant": "paper", "weight": 0.003, "dimensions": 256},
        ),
    }
    params: CCParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> CCObjective:
        return CCObjective(teacher, student, self.params)
