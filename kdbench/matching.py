"""Feature maps of two networks, or of images of two sizes, made comparable."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

#: Pixels of a network's first feature map where images are 32x32. The authors of FKD, AT and NAD
#: chose their weights there.
_REFERENCE_PIXELS = 32 * 32


def match_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps (N, *, H, W) to the smaller height and width."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))

    def fit(x: Tensor) -> Tensor:
        return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)

    return fit(a), fit(b)


def pixel_scale(first: Tensor) -> float:
    """1024 / (H W) for the first map (N, C, H, W) of a network: how many times fewer pixels it has
    than at 32x32.

    A loss that grows with the pixels of a map is multiplied by it. A loss that falls with them is
    divided by it. So a weight that was chosen at 32x32 means the same at every size of image. The
    later maps need no factor of their own, since they grow with the first. At 32x32 it is 1.0.
    """
    height, width = first.shape[2:]
    return _REFERENCE_PIXELS / (height * width)
