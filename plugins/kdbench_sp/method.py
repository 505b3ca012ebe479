"""Similarity-preserving distillation ("SP"): images that are alike for the teacher are alike for
the student.

F. Tung, G. Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019, arXiv:1907.09682.

Implemented: the paper's loss at the last group, as RepDistiller's code has it.

    Q = the last group's output, flattened: (B, C H W);  G = Q Q^T, each row divided by its length
    L = CE(z_s, y) + gamma / B^2 * sum (G_s - G_t)^2

Deviations from the paper:
- One place only, the last group. The paper has a sum over pairs of layers.
- RepDistiller takes what its network hands out as the last group. For a WRN that is before a ReLU,
  and for a ResNet after it. Here it is before it (``target = group``); ``relu`` puts a ReLU first.
- A row of G has length 1, whatever B is. So the term falls like 1 / B, and gamma = 3000 belongs to
  batches of 64. With ``scale_with_batch`` the term is multiplied by B / 64. It is off by default,
  as in the paper.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.method import Info, Params
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher

#: The batch for which gamma was chosen.
_REFERENCE_BATCH = 64


def similarity(features: Tensor) -> Tensor:
    """G of features (N, C, H, W): float32 (N, N), each row of length 1, or 0 where an image's
    features are."""
    flat = features.float().flatten(1)
    with torch.autocast(flat.device.type, enabled=False):
        return F.normalize(flat @ flat.T, dim=1)


class SPParams(Params):
    gamma: float = Field(
        3000.0, ge=0, description="weight of the similarity loss, for batches of 64; paper"
    )
    target: Literal["group", "relu"] = Field(
        "group",
        description="what is compared: the last group's output, or its ReLU; group as in "
        "RepDistiller for a WRN",
    )
    scale_with_batch: bool = Field(
        False,
        description="multiply the loss by B / 64, so that gamma means the same for every batch "
        "size; kdbench",
    )


class SPObjective(nn.Module):
    """The task loss and the weighted distance of the similarities; owns no parameters."""

    def __init__(self, params: SPParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "sp"}``, float32 scalars; ``sp`` is weighted already."""
        p = self.params
        maps = (student_out.groups[-1], teacher_out.groups[-1].detach())
        student, teacher = (similarity(g.relu() if p.target == "relu" else g) for g in maps)
        scale = len(batch.labels) / _REFERENCE_BATCH if p.scale_with_batch else 1.0
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "sp": p.gamma * scale * F.mse_loss(student, teacher),
        }


class SP(Distiller):
    """Distillation of the similarities between images."""

    info = Info(
        name="sp",
        title="Similarity-Preserving Knowledge Distillation",
        authors="Tung, Mori",
        venue="ICCV",
        year=2019,
        link="https://arxiv.org/abs/1907.09682",
        evidence="first-look",
    )
    Params = SPParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    params: SPParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> SPObjective:
        return SPObjective(self.params)
