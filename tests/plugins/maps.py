"""What an objective of features is called with: feature maps without networks."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.models.base import FeatureOutput


def batch(count: int) -> Batch:
    """``count`` black images of class 0."""
    return Batch(
        torch.zeros(count, 3, 1, 1), torch.zeros(count, dtype=torch.int64), torch.arange(count)
    )


def everywhere(maps: Tensor) -> FeatureOutput:
    """These maps (N, C, H, W) at every group and tap, and equal logits of four classes."""
    return FeatureOutput((maps,) * 3, (maps,) * 3, torch.zeros(len(maps), 4))


def vectors(rows: Tensor) -> FeatureOutput:
    """Vectors (N, C) as maps of one place, so that they are the pooled features where none is
    negative."""
    return everywhere(rows[:, :, None, None])
