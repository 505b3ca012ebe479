"""FitNet: the student's features, after a regressor, are the teacher's features (a "hint").

A. Romero, N. Ballas, S. Ebrahimi Kahou, A. Chassang, C. Gatta, Y. Bengio: FitNets: Hints for Thin
Deep Nets. ICLR 2015, arXiv:1412.6550.

Implemented: the hint loss beside the task loss in one training, as in RepDistiller's code.

    L = CE(z_s, y) + weight * mean (r(S) - F)^2
        S, F the student's and the teacher's output of group ``hint``
        r a 1x1 convolution with bias, and a batch norm

``target`` says where a ReLU is:

    group    (default) r ends without one
    relu     F goes through one, and r ends with one
    release  r ends with one, and F is as it is

Deviations from the paper:
- The paper trains the student's lower half on the hint alone, and then distils logits. Here both
  losses are there from the beginning to the end, and there are no logits of the teacher.
- ``release`` is RepDistiller's. The outputs of a WRN's groups have negative values, which no r with
  a ReLU can reach. So the default has none.
- Where S and F differ in height or width, the larger one is average-pooled to the smaller. The
  codes have other regressors there: a strided, a transposed or a wide convolution. An objective is
  not told the sizes of the maps before the first batch. Networks of kdbench's own have equal sizes.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.matching import match_size
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


class FitNetParams(Params):
    weight: float = Field(100.0, ge=0, description="weight of the hint loss; RepDistiller")
    hint: Literal[1, 2, 3] = Field(
        2, description="group whose output is the hint, 1 to 3; RepDistiller"
    )
    target: Literal["group", "relu", "release"] = Field(
        "group",
        description="where a ReLU is: nowhere; after teacher and regressor; after the regressor "
        "only, as in RepDistiller",
    )


class FitNetObjective(nn.Module):
    """The task loss and the weighted hint loss; owns the regressor."""

    def __init__(self, student_channels: int, teacher_channels: int, params: FitNetParams) -> None:
        super().__init__()
        self.params = params
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1), nn.BatchNorm2d(teacher_channels)
        )

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "hint"}``, float32 scalars; ``hint`` is weighted already."""
        p = self.params
        wanted, given = match_size(
            teacher_out.groups[p.hint - 1].detach(), student_out.groups[p.hint - 1]
        )
        wanted, reached = wanted.float(), self.regressor(given).float()
        if p.target != "group":
            reached = reached.relu()
        if p.target == "relu":
            wanted = wanted.relu()
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "hint": p.weight * F.mse_loss(reached, wanted),
        }


class FitNet(Distiller):
    """Distillation of one group's features."""

    info = Info(
        name="fitnet",
        title="FitNets: Hints for Thin Deep Nets",
        authors="Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio",
        venue="ICLR",
        year=2015,
        link="https://arxiv.org/abs/1412.6550",
        evidence="first-look",
    )
    Params = FitNetParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "release": Variant(
            "RepDistiller's: a ReLU after the regressor, whose targets may be negative",
            {"target": "release"},
        )
    }
    params: FitNetParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> FitNetObjective:
        group = self.params.hint - 1
        return FitNetObjective(
            student.group_channels[group], teacher.group_channels[group], self.params
        )
