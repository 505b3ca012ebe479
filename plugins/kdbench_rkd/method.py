"""Relational distillation ("RKD"): distances and angles between the images of a batch.

W. Park, D. Kim, Y. Lu, M. Cho: Relational Knowledge Distillation. CVPR 2019, arXiv:1904.05068.

Implemented: the distance-wise and the angle-wise loss with the Huber loss h, in the form of
RepDistiller's code.

    f_i = the pooled features of image i, d_ij = ||f_i - f_j||, e_ij = (f_i - f_j) / d_ij
    psi_D(i, j) = d_ij / mean of all d_ij > 0,   psi_A(i, j, k) = <e_ij, e_kj>
    L_D = mean over i, j of h(psi_D of the student - psi_D of the teacher)
    L_A = mean over i, j, k of h(psi_A of the student - psi_A of the teacher)
    L = CE(z_s, y) + distance_weight * L_D + angle_weight * L_A
        h(x) = x^2 / 2 where |x| < 1, else |x| - 1/2;  psi = 0 where i = j or k = j

Deviations from the paper:
- The weights are RepDistiller's for classification, 25 and 50. The authors have 1 and 2, for the
  learning of distances.
- Both means count the pairs i = j, which are 0, as both codes do.
- Images closer than 1e-6 have that distance and no direction, and get no gradient from each other.
  Both codes clamp the distance, and divide a difference by its length as it is.
- There are B^3 angles. So a batch of more than 256 images is refused.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.errors import ConfigError
from kdbench.method import Info, Params
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher

#: 256^3 angles are 64 MiB for each tensor of them.
_MOST = 256
#: Of a squared distance. Below it a square root has no useful slope.
_CLOSE = 1e-12


def relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """psi_D (N, N) and psi_A (N, N, N), indexed [j, i, k], of features (N, C); float32."""
    f = features.float()
    difference = f.unsqueeze(0) - f.unsqueeze(1)  # [j, i] is f_i - f_j
    squared = difference.square().sum(2)
    apart = squared > _CLOSE
    length = squared.clamp_min(_CLOSE).sqrt()
    others = ~torch.eye(len(f), dtype=torch.bool, device=f.device)
    distance = length * others
    mean = distance.sum() / max(1, len(f) * (len(f) - 1))
    unit = difference / length.unsqueeze(2) * apart.unsqueeze(2)
    with torch.autocast(f.device.type, enabled=False):
        angle = unit @ unit.transpose(1, 2)
    return distance / mean.clamp_min(_CLOSE), angle


class RKDParams(Params):
    distance_weight: float = Field(
        25.0, ge=0, description="weight of the distances between two images; RepDistiller"
    )
    angle_weight: float = Field(
        50.0, ge=0, description="weight of the angles between three images; RepDistiller"
    )


class RKDObjective(nn.Module):
    """The task loss and both weighted relations; owns no parameters."""

    def __init__(self, teacher: FrozenTeacher, student: FeatureModel, params: RKDParams) -> None:
        super().__init__()
        self.params = params
        # Functions, since a network must not be a part of the objective.
        self.pooled = (teacher.pooled, student.pooled)

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "distance", "angle"}``, float32 scalars, already weighted.

        Raises:
            ConfigError: the batch has more than 256 images.
        """
        if len(batch.labels) > _MOST:
            raise ConfigError(
                f"rkd compares all angles of a batch, and this one has {len(batch.labels)} images; "
                f"it takes {_MOST} at most: --set distill.batch_size={_MOST} or fewer"
            )
        p, (of_teacher, of_student) = self.params, self.pooled
        with torch.no_grad():
            wanted_distance, wanted_angle = relations(of_teacher(teacher_out))
        distance, angle = relations(of_student(student_out))
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "distance": p.distance_weight * F.smooth_l1_loss(distance, wanted_distance),
            "angle": p.angle_weight * F.smooth_l1_loss(angle, wanted_angle),
        }


class RKD(Distiller):
    """Distillation of the relations between images."""

    info = Info(
        name="rkd",
        title="Relational Knowledge Distillation",
        authors="Park, Kim, Lu, Cho",
        venue="CVPR",
        year=2019,
        link="https://arxiv.org/abs/1904.05068",
        evidence="first-look",
    )
    Params = RKDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    params: RKDParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> RKDObjective:
        return RKDObjective(teacher, student, self.params)
