"""Attention transfer ("AT"): the student looks where the teacher looks.

S. Zagoruyko, N. Komodakis: Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer. ICLR 2017, arXiv:1612.03928.

Implemented: activation-based transfer with the map F_sum^p (section 3.1) at three places, the group
outputs before any batch norm that follows them, in the form of the authors' code.

    A_l = sum_c |G_l|^p,  A_hat = A / (||A||_2 + eps)  over H x W
    L = CE(z_s, y) + beta * (H_1 W_1) / 1024 * sum_l MSE(A_hat_l(student), A_hat_l(teacher))
        H_1 x W_1 the size at which the first maps are compared

Deviations from the paper:
- The distance is the mean squared error of the authors' code, with their beta for it, not the norm
  of the paper's Eq. 2.
- A_hat has length 1 and its error is averaged over H x W. So the distance falls with the number of
  places, and beta would mean another strength at every size of image. Here beta is the value at
  32x32, and (H_1 W_1) / 1024 scales it to other sizes. The authors take 1000 at 32x32 and at
  224x224. Their first maps at 224x224 are 56x56, where 1000 becomes 3062.
- eps = 1e-6, as for NAD, which shares these maps; without it a map that is zero everywhere would
  have no direction.
- Where a teacher group and a student group differ in height or width, the larger one is
  average-pooled to the smaller before its map is taken. The groups of a network of tokens are its
  patches laid out as an image; the model sees to that.
- Gradient-based transfer (section 3.2) and the sum with logit distillation are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.attention import attention_distance
from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.matching import match_size, pixel_scale
from kdbench.method import Info, Params
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher


class ATParams(Params):
    beta: float = Field(
        1000.0,
        ge=0,
        description="weight of the summed attention distances; its value at 32x32, scaled to other "
        "sizes by height x width / 1024 of the first maps; authors' code",
    )
    p: float = Field(
        2.0,
        ge=1,
        le=8,
        description="power of the activations in the attention map; paper section 3.1",
    )


class ATObjective(nn.Module):
    """Cross-entropy and the weighted distance of the attention maps; owns no parameters."""

    def __init__(self, params: ATParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "at"}``, float32 scalars; ``at`` is weighted already."""
        distance = torch.zeros((), device=batch.labels.device)
        pairs = [
            match_size(t, s) for t, s in zip(teacher_out.groups, student_out.groups, strict=True)
        ]
        for t, s in pairs:
            distance = distance + attention_distance(s, t, self.params.p)
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "at": self.params.beta / pixel_scale(pairs[0][0]) * distance,
        }


class AT(Distiller):
    """Distillation of attention maps."""

    info = Info(
        name="at",
        title="Paying More Attention to Attention: Improving the Performance of Convolutional "
        "Neural Networks via "
        "Attention Transfer",
        authors="Zagoruyko, Komodakis",
        venue="ICLR",
        year=2017,
        link="https://arxiv.org/abs/1612.03928",
        evidence="open-choices",
    )
    Params = ATParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    params: ATParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> ATObjective:
        return ATObjective(self.params)
