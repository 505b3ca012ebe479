"""Poisons that look like the images that they are made from: changed within a bound, and put into
the training set."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.data.base import ImageSet


@torch.no_grad()
def move(change: Tensor, images: Tensor, by: Tensor, epsilon: float) -> None:
    """Change ``change`` in place, so that it stays small and ``images + change`` stays a picture.

        change <- P(change + by),  P onto {|change| <= epsilon, 0 <= images + change <= 1}

    Args:
        change, images, by: float (N, 3, H, W). epsilon: of the range [0, 1] of a pixel.
    """
    change.add_(by).clamp_(-epsilon, epsilon)
    change.copy_((images + change).clamp(0, 1) - images)


def on_grid(images: Tensor) -> Tensor:
    """Images in [0, 1] on the grid of 8 bits, as a set of images keeps them."""
    return (images * 255).round() / 255


def replaced(images: ImageSet, rows: Tensor, by: Tensor, label: int) -> ImageSet:
    """A set without its images ``rows``, and with others at its end.

    Args:
        rows: int64, in any order, without repetition.
        by: float (M, 3, H, W) in [0, 1]. M need not be the number of rows.
        label: that of the new images.
    """
    keep = torch.ones(len(images), dtype=torch.bool)
    keep[rows] = False
    left = images.subset(torch.nonzero(keep).flatten())
    return left.extended(by, torch.full((len(by),), label, dtype=torch.int64))
