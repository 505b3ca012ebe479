"""Bringing feature maps of two networks to one size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def match_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps (N, *, H, W) to the smaller height and width."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))

    def fit(x: Tensor) -> Tensor:
        return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)

    return fit(a), fit(b)
