"""Which of several classes stands out: the anomaly index of Neural Cleanse (Wang et al., S&P 2019),
which ULRL uses, too.

    MAD* = 1.4826 * median |x - median(x)|
    index = (x - median(x)) / MAD*

A limit on the index is no test. Where the numbers of clean networks are normal, the smallest of ten
has an index under -2 in a third of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Makes the median of absolute deviations the standard deviation of normal numbers.
_NORMAL = 1.4826


def anomaly_index(x: Tensor) -> Tensor:
    """How far each of the finite numbers (K,) stands out, with its sign, float64 (K,).

    All are 0 where more than half of the numbers are the same, since then there is no scale.
    """
    x = x.double()
    # The mean of the two middle ones, where K is even.
    off = x - torch.quantile(x, 0.5)
    scale = _NORMAL * torch.quantile(off.abs(), 0.5)
    return off / scale if scale > 0 else torch.zeros_like(off)


def flagged(index: Tensor, threshold: float, most: int) -> list[int]:
    """The classes whose index is over the threshold, those with the largest first, ``most`` of them
    at most."""
    order = index.argsort(descending=True, stable=True)[:most]
    return [int(c) for c in order if index[c] > threshold]
