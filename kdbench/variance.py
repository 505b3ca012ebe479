"""How much features vary: the quantity that RobustKD lowers and that its Fig. 2 compares between
models."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

VarMode = Literal["global", "per_example", "batch", "spatial"]
_AXES: dict[str, tuple[int, ...]] = {
    "global": (0, 1, 2, 3),
    "per_example": (1, 2, 3),
    "batch": (0,),
    "spatial": (2, 3),
}


def feature_variance(features: Tensor, mode: VarMode = "global") -> Tensor:
    """Variance of features (N, C, H, W), unbiased, float32 scalar (Eq. 8 of RobustKD, arXiv
    2406.03409).

    global: over all entries. per_example: over C, H, W, averaged over N. batch: over N, averaged
    over C, H, W.
    spatial: over H, W, averaged over N, C. A variance of a single entry is 0.
    """
    axes = _AXES[mode]
    count = math.prod(features.shape[a] for a in axes)
    return torch.var(features.float(), dim=axes, correction=int(count > 1)).mean()


def variance_of_each(features: Tensor) -> Tensor:
    """The unbiased variance of each example's features over C, H, W: (N, C, H, W) -> float32
    (N,)."""
    return torch.var(features.float(), dim=(1, 2, 3))
