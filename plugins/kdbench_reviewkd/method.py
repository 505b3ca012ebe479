"""Knowledge review ("ReviewKD"): the student's deep features help its shallow ones to be the
teacher's.

P. Chen, S. Liu, H. Zhao, J. Jia: Distilling Knowledge via Knowledge Review. CVPR 2021,
arXiv:2104.09044.

Implemented: the residual structure with attention based fusion, and the hierarchical context loss,
in the form of the authors' code for CIFAR-100.

    S_l = the student's G1, G2, G3 and pooled features (1x1)
    T_l = the teacher's taps 1 to 3, before a ReLU, and its pooled features
    from deep to shallow, with C = min(512, channels of the student's deepest):
        x = BN(conv1x1(S_l))                                to C channels
        a = sigmoid(conv1x1([x; r])),  x <- x a_1 + r a_2   r: the x of the deeper level, enlarged
        y_l = BN(conv3x3(x))                                to the channels of T_l
    HCL(y, t) = (mse(y, t) + 1/2 mse at 4x4 + 1/4 mse at 2x2 + 1/8 mse at 1x1) / (1 + 1/2 + ...)
    L = CE(z_s, y) + w * weight * sum_l HCL(y_l, T_l),  w = min(progress / warmup, 1)

In HCL only sizes below that of the map are there. The weight halves from one that is there to the
next.

Deviations from the paper:
- ``weight`` is 1 for all pairs. The authors have 5 for WRN-40-2 to 16-2, 0.6 for ResNet-56 to 20, 1
  for ResNet-110 to 32, and 8 for WRN-40-2 to ShuffleNetV2.
- The weight grows over the first twelfth of the steps. The authors count 20 of 240 epochs.
- Where a map of the teacher and one of the student differ in height or width, the larger one is
  average-pooled to the smaller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.matching import match_size
from kdbench.method import Info, Params
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher

#: Channels of a fused map at most.
_WIDEST = 512


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """HCL of two maps (N, C, H, W) of one shape; float32 scalar."""
    student, teacher = student.float(), teacher.float()
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= min(student.shape[2:]):
            continue
        weight /= 2
        total += weight
        small, wanted = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
        loss = loss + weight * F.mse_loss(small, wanted)
    return loss / total


class Fusion(nn.Module):
    """One level: its own map (N, channels, H, W) joins what the deeper level hands up."""

    def __init__(self, channels: int, wide: int, wanted: int, deepest: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.attention = None if deepest else nn.Conv2d(2 * wide, 2, 1)
        self.out = nn.Sequential(
            nn.Conv2d(wide, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, own: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """(y, x): what is compared with the teacher, and what is handed to the next level."""
        x = self.narrow(own)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            share = torch.sigmoid(self.attention(torch.cat([x, deeper], 1)))
            x = x * share[:, :1] + deeper * share[:, 1:]
        return self.out(x), x


class ReviewKDParams(Params):
    weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the summed losses of the levels; authors' code, 0.6 to 8 by pair",
    )
    warmup: float = Field(
        0.083,
        ge=0,
        le=1,
        description="share of the steps over which the weight grows from 0; authors: 20 of 240 "
        "epochs",
    )


class ReviewKDObjective(nn.Module):
    """The task loss and the weighted review loss; owns the fusions, deepest first."""

    def __init__(
        self, teacher: FrozenTeacher, student: FeatureModel, params: ReviewKDParams
    ) -> None:
        super().__init__()
        self.params = params
        # In a tuple, since a network must not be a part of the objective.
        self.pooled = (teacher.pooled, student.pooled)
        mine = (*student.group_channels, student.tap_channels[-1])
        theirs = (*teacher.tap_channels, teacher.tap_channels[-1])
        wide = min(_WIDEST, mine[-1])
        self.levels = nn.ModuleList(
            Fusion(channels, wide, wanted, deepest=not i)
            for i, (channels, wanted) in enumerate(zip(mine[::-1], theirs[::-1], strict=True))
        )

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "review"}``, float32 scalars; ``review`` is weighted already."""
        theirs, mine = (
            pooled(out)[:, :, None, None]
            for pooled, out in zip(self.pooled, (teacher_out, student_out), strict=True)
        )
        maps = (*student_out.groups, mine)
        targets = (*teacher_out.taps, theirs)
        total, deeper = torch.zeros((), device=batch.labels.device), None
        for level, own, wanted in zip(self.levels, maps[::-1], targets[::-1], strict=True):
            reached, deeper = level(own, deeper)
            total = total + context_loss(*match_size(reached, wanted.detach()))
        p = self.params
        grown = min(batch.progress / p.warmup, 1.0) if p.warmup else 1.0
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "review": grown * p.weight * total,
        }


class ReviewKD(Distiller):
    """Distillation of features that were reviewed from deep to shallow."""

    info = Info(
        name="reviewkd",
        title="Distilling Knowledge via Knowledge Review",
        authors="Chen, Liu, Zhao, Jia",
        venue="CVPR",
        year=2021,
        link="https://arxiv.org/abs/2104.09044",
        evidence="first-look",
    )
    Params = ReviewKDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    params: ReviewKDParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> ReviewKDObjective:
        return ReviewKDObjective(teacher, student, self.params)
