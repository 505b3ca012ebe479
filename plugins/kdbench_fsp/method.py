"""Flow of the solution procedure ("FSP"): how a network's features change from one part to the
next.

J. Yim, D. Joo, J. Bae, J. Kim: A Gift from Knowledge Distillation: Fast Optimization, Network
Minimization and Transfer Learning. CVPR 2017.

Implemented: the paper's flow matrices between neighbouring parts, as in RepDistiller's code.

    M_ij = sum over places of A_i B_j / (H W)       A, B outputs of two parts, A pooled to B's size
    L_FSP = sum over (stem, G1), (G1, G2), (G2, G3) of mean (M_s - M_t)^2
    stages = init:   L = weight * L_FSP for the first ``share`` of the steps, then L = CE(z_s, y)
    stages = joint:  L = CE(z_s, y) + weight * L_FSP

As executed (``init``, default) the teacher is gone after the first ninth of the steps. It is an
initialisation of the student. One would expect the ASR of C2, the student without a teacher. Nobody
has measured it yet.

Deviations from the paper:
- A network need not give its stem here. Unless both networks do, there are the two pairs of groups.
- RepDistiller takes 30 epochs of matching at a constant rate, in evaluation mode but for the groups
  that learn, and then 240. Here both stages have one schedule, one optimiser and training mode.
  ``share`` is 30 of 270.
- In the first stage weight decay acts on the classifier, too.
- RepDistiller's weight has no effect as it is executed. Beside the task loss a weight of 50
  diverged here within 12 steps. So ``weight`` is 1.
- The matrices of two networks need equal channels. Others are refused, unless ``connector`` puts a
  1x1 convolution and a batch norm after each of the student's parts. The paper has none. Without
  the batch norm the training diverged.
- Where two networks differ in height or width the matrices have one size all the same, so nothing
  is pooled between networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller, TwoStageParams
from kdbench.errors import ConfigError
from kdbench.matching import match_size
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


def flow(earlier: Tensor, later: Tensor) -> Tensor:
    """M of two maps (N, A, H, W) and (N, B, H', W'): float32 (N, A, B). The larger map is
    average-pooled."""
    a, b = (maps.float().flatten(2) for maps in match_size(earlier, later))
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.transpose(1, 2) / a.shape[2]


def flows(maps: Iterable[Tensor]) -> list[Tensor]:
    """M of each two neighbouring maps."""
    return [flow(earlier, later) for earlier, later in pairwise(maps)]


def channels(network: FeatureModel | FrozenTeacher, stem: bool) -> tuple[int | None, ...]:
    """The channels of the maps of a network."""
    return (*([network.stem_channels] if stem else []), *network.group_channels)


class FSPParams(TwoStageParams):
    weight: float = Field(
        1.0, ge=0, le=1000, description="weight of L_FSP; as RepDistiller executes it"
    )
    connector: bool = Field(
        False,
        description="a 1x1 convolution and a batch norm after the stem and each group of the "
        "student, for networks of other channels; kdbench",
    )


class FSPObjective(nn.Module):
    """L_FSP and the task loss, one after the other or together; owns the connectors."""

    def __init__(self, teacher: FrozenTeacher, student: FeatureModel, params: FSPParams) -> None:
        super().__init__()
        self.params = params
        self.stem = None not in (student.stem_channels, teacher.stem_channels)
        mine, theirs = channels(student, self.stem), channels(teacher, self.stem)
        if mine != theirs and not params.connector:
            what = "the stem and groups" if self.stem else "the groups"
            raise ConfigError(
                f"fsp compares networks of equal channels, and {what} have {mine} in the "
                f"student and {theirs} in the teacher; --set distiller.fsp.connector=true puts "
                "a connector after each of them in the student"
            )
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t))
            if params.connector
            else nn.Identity()
            for s, t in zip(mine, theirs, strict=True)
        )

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "fsp"}`` or ``{"ce"}``, float32 scalars, weighted already.

        In the first stage ``ce`` has weight 0, so that every parameter has a gradient.
        """
        p = self.params
        ce = F.cross_entropy(student_out.logits.float(), batch.labels)
        task, matching = p.weights(batch.progress)
        if not matching:
            return {"ce": ce}
        with torch.no_grad():
            wanted = flows(self._maps(teacher_out))
        mine = [c(m) for c, m in zip(self.connectors, self._maps(student_out), strict=True)]
        distances = [F.mse_loss(m, t) for m, t in zip(flows(mine), wanted, strict=True)]
        return {"ce": task * ce, "fsp": p.weight * torch.stack(distances).sum()}

    def _maps(self, out: FeatureOutput) -> list[Tensor]:
        return [*([out.stem] if self.stem else []), *out.groups]


class FSP(Distiller):
    """Distillation of the flow between groups."""

    info = Info(
        name="fsp",
        title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and "
        "Transfer Learning",
        authors="Yim, Joo, Bae, Kim",
        venue="CVPR",
        year=2017,
        link="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
    )
    Params = FSPParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "joint": Variant("both losses all the time; not in the literature", {"stages": "joint"})
    }
    params: FSPParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> FSPObjective:
        return FSPObjective(teacher, student, self.params)
