"""Where a network looks: attention maps (Zagoruyko & Komodakis 2017, arXiv 1612.03928), used by
AT, NAD and ARGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.matching import pixel_scale


def attention(g: Tensor, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    """Normalised attention map sum_c |G|^p / (||.||_2 + eps): (N, C, H, W) -> (N, H, W),
    float32."""
    magnitude = g.float().square() if p == 2 else g.float().abs().pow(p)
    a = magnitude.sum(1)
    return a / (torch.linalg.vector_norm(a, dim=(1, 2), keepdim=True) + eps)


def attention_distance(
    student: Tensor, teacher: Tensor, p: float = 2.0, eps: float = 1e-6
) -> Tensor:
    """Mean squared difference of the two attention maps; group outputs (N, C, H, W), of any two C
    -> float32 scalar.

    Only ``student`` gets a gradient. Maps of different height or width are a mistake of the
    caller's.
    """
    return F.mse_loss(attention(student, p, eps), attention(teacher.detach(), p, eps))


def attention_terms(
    groups: tuple[Tensor, ...],
    wanted: tuple[Tensor, ...],
    beta: tuple[float, ...],
    p: float = 2.0,
    eps: float = 1e-6,
) -> dict[str, Tensor]:
    """The weighted distance of each group's attention from the wanted one, as float32 scalars.

    A weight is that of 32x32, see :func:`kdbench.matching.pixel_scale`. A group with weight 0 has
    no term. Only ``groups`` get a gradient.
    """
    scale = pixel_scale(groups[0])
    return {
        f"attention{i + 1}": weight / scale * attention_distance(mine, other, p, eps)
        for i, (weight, mine, other) in enumerate(zip(beta, groups, wanted, strict=True))
        if weight
    }
