"""Overhaul of feature distillation ("FKD").

B. Heo, J. Kim, S. Yun, H. Park, N. Kwak, J. Y. Choi: A Comprehensive Overhaul of Feature
Distillation. ICCV 2019, arXiv:1904.01866. It is the distiller of RobustKD (Chen et al. 2024,
arXiv:2406.03409, term d(T_t, T_s) of Eq. 6).

Implemented: margin ReLU sigma_m with the margin E[X | X < 0] from the batch norm before the ReLU
(Eq. 4-5 of Heo et al.), partial L2 distance d_p (Eq. 6), 1x1 convolution + batch norm on the
student's side, and the sum of the task loss and the weighted distances (Eq. 7).

    L = CE + alpha * 1024 / (H W) / B * sum_l w_l * d_p(r_l(S_l), max(T_l, m_l)),
        w = (1/4, 1/2, 1),  H x W the size of the teacher's first tap, as it is compared

Deviations from the paper:
- gamma = 0 (a pruned channel) gives m = min(beta, 0); the authors' code divides by zero there.
- A tap that no batch norm describes takes its margin from the data: each channel's mean negative
  response in the first batch, stored as a buffer.
- Where a teacher tap and a student tap differ in height or width, the larger one is average-pooled
  to the smaller.
- Teacher batch norms use batch statistics, as in the authors' code, but the stored statistics stay
  untouched.
- d_p is a sum over pixels, so the authors choose alpha by the data set: 1e-3 at 32x32, and 1e-4 at
  224x224. Here alpha is the value at 32x32, and 1024 / (H W) scales it to other sizes. Nothing
  changes at 32x32. Their ResNet-50 at 224x224 has a first tap of 56x56, where 1e-3 becomes 3.3e-4.
- Where the student's first tap is the smaller one, H x W is its size, since the distance is summed
  there.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.matching import match_size, pixel_scale
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import BatchNormMode, FrozenTeacher

#: Below this a batch norm's scale counts as zero (its output is the constant beta).
_ZERO_SCALE = 1e-8


def margin(gamma: Tensor, beta: Tensor) -> Tensor:
    """Expected negative response of each channel, X ~ N(beta, gamma^2).

    m = E[X | X < 0] = beta - |gamma| * phi(beta/|gamma|) / Phi(-beta/|gamma|)   if
    Phi(-beta/|gamma|) > 0.001 m = -3 |gamma|
    otherwise m = min(beta, 0)                                                            if gamma =
    0

    Args:
        gamma, beta: scale and shift of the batch norm before the ReLU, (C,).

    Returns:
        (C,) float32.
    """
    scale, shift = gamma.detach().double().abs(), beta.detach().double()
    zero = scale < _ZERO_SCALE
    ratio = shift / scale.masked_fill(zero, 1.0)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(-ratio)
    m = torch.where(below > 1e-3, shift - scale * density / below.clamp_min(1e-3), -3 * scale)
    return torch.where(zero, shift.clamp_max(0), m).float()


def measured_margin(tap: Tensor) -> Tensor:
    """Mean negative response of each channel of ``tap`` (N, C, H, W); 0 where a channel has none.
    Returns (C,)."""
    values = tap.detach().float()
    count = (values < 0).sum((0, 2, 3)).clamp_min(1)
    return values.clamp_max(0).sum((0, 2, 3)) / count


class _PartialL2(torch.autograd.Function):
    """One saved tensor and no float32 copy: plain autograd would keep four maps of the teacher's
    size per tap."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, bound: Tensor) -> Tensor:
        target = torch.maximum(teacher, bound.to(teacher.dtype))
        difference = student - target
        difference.masked_fill_((difference <= 0).logical_and_(target <= 0), 0)
        ctx.save_for_backward(difference)
        ctx.dtype = student.dtype
        # A norm with a dtype converts and accumulates in float32 while it reads; per example keeps
        # the sums short.
        return (
            torch.linalg.vector_norm(difference, dim=(1, 2, 3), dtype=torch.float32).square().sum()
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return (difference * (2 * grad)).to(ctx.dtype), None, None


def partial_l2(student: Tensor, teacher: Tensor, bound: Tensor) -> Tensor:
    """Partial L2 distance to the margin-ReLU'd teacher, summed over everything.

    d_p(S, T) = sum 1[S > T' or T' > 0] * (S - T')^2,  T' = max(T, m)

    Args:
        student, teacher: (N, C, H, W), float32 or bfloat16; only ``student`` gets a gradient.
        bound: margins m, (C,).

    Returns:
        float32 scalar.
    """
    return _PartialL2.apply(student, teacher.detach(), bound.view(1, -1, 1, 1))


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution, weights N(0, sqrt(2 / C_t)), no bias, then batch norm: (N, C_s, H, W) -> (N,
    C_t, H, W)."""
    conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / teacher_channels))
    return nn.Sequential(conv, nn.BatchNorm2d(teacher_channels))


class FKDObjective(nn.Module):
    """Cross-entropy and the weighted partial L2 distances; owns connectors and margins."""

    def __init__(self, teacher: FrozenTeacher, student: FeatureModel, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        taps = len(teacher.tap_channels)
        self.weights = tuple(2.0 ** (i + 1 - taps) for i in range(taps))
        self.connectors = nn.ModuleList(
            connector(s, t) for s, t in zip(student.tap_channels, teacher.tap_channels, strict=True)
        )
        self._to_measure: set[int] = set()
        for i, (norm, channels) in enumerate(
            zip(teacher.tap_norms(), teacher.tap_channels, strict=True)
        ):
            if norm is None:
                bound = torch.zeros(channels)
                self._to_measure.add(i)
            elif norm.affine:
                bound = margin(norm.weight, norm.bias)
            else:
                bound = margin(torch.ones(channels), torch.zeros(channels))
            self.register_buffer(f"margin{i}", bound.clone())
        # Initialised on the CPU for the same weights on every device, then moved to the student.
        self.to(next(student.parameters()).device)

    def get_extra_state(self) -> list[int]:
        """Which margins are still to be measured: part of ``state_dict``, so that resumed training
        does not measure again."""
        return sorted(self._to_measure)

    def set_extra_state(self, state: list[int]) -> None:
        self._to_measure = set(state)

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "fkd"}``, float32 scalars; ``fkd`` is weighted already."""
        distance = torch.zeros((), device=batch.labels.device)
        pairs = [match_size(t, s) for t, s in zip(teacher_out.taps, student_out.taps, strict=True)]
        for i, (t, s) in enumerate(pairs):
            bound = getattr(self, f"margin{i}")
            if i in self._to_measure:
                bound.copy_(measured_margin(t))
                self._to_measure.discard(i)
            distance = distance + self.weights[i] * partial_l2(self.connectors[i](s), t, bound)
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "fkd": self.alpha * pixel_scale(pairs[0][0]) / len(batch.labels) * distance,
        }


class FKDParams(Params):
    alpha: float = Field(
        1e-3,
        ge=0,
        description="weight of the feature distance, summed over pixels, of an example; its value "
        "at 32x32, scaled to other sizes by 1024 / (height x width of the teacher's first tap); "
        "Heo et al. code",
    )
    teacher_bn: Literal["batch", "running"] = Field(
        "batch",
        description="statistics the teacher's batch norms use while distilling; batch as in Heo et "
        "al., Table 8",
    )


class FKD(Distiller):
    """Overhaul of feature distillation."""

    info = Info(
        name="fkd",
        title="A Comprehensive Overhaul of Feature Distillation",
        authors="Heo, Kim, Yun, Park, Kwak, Choi",
        venue="ICCV",
        year=2019,
        link="https://arxiv.org/abs/1904.01866",
        evidence="does-a-backdoor-travel",
    )
    Params = FKDParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "evalbn": Variant(
            "the teacher's batch norms keep their stored statistics", {"teacher_bn": "running"}
        ),
        "weak": Variant("control C6: a tenth of the guidance", {"alpha": 1e-4}),
    }
    params: FKDParams

    def batch_norm_mode(self) -> BatchNormMode:
        return self.params.teacher_bn

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> FKDObjective:
        return FKDObjective(teacher, student, self.params.alpha)
