"""Where a network looks: attention maps (Zagoruyko & Komodakis 2017, arXiv 1612.03928), used by AT
and NAD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
