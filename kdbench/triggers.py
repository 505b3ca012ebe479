"""Triggers that several attacks share: a picture mixed into the image through a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.attack import Trigger
from kdbench.errors import ConfigError


class BlendTrigger(Trigger):
    """``x -> (1 - m) x + m pattern``; where m is 0 the image is bit-identical, where it is 1 the
    pattern is.

    Args:
        pattern: float (3, H, W) in [0, 1]. mask: float (1, H, W) in [0, 1], the opacity of each
            pixel.
    """

    pattern: Tensor
    mask: Tensor

    def __init__(self, pattern: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("pattern", pattern.detach().clone().float())
        self.register_buffer("mask", mask.detach().clone().float())

    def forward(self, images: Tensor) -> Tensor:
        return blend(images, self.pattern, self.mask)


class PatchTrigger(BlendTrigger):
    """A rectangle pasted at a fixed place in the bottom-right corner.

    Args:
        patch: float (3, h, w) in [0, 1]. shape: (3, H, W) of the images. margin: pixels between
            patch and border.
        opacity: 1 pastes it opaquely.
    """

    def __init__(
        self, patch: Tensor, shape: tuple[int, int, int], margin: int = 0, opacity: float = 1.0
    ) -> None:
        pattern = torch.zeros(shape)
        rows, columns = corner(patch.shape[-2], patch.shape[-1], shape, margin)
        pattern[:, rows, columns] = patch
        mask = torch.zeros(1, *shape[1:])
        mask[:, rows, columns] = opacity
        super().__init__(pattern, mask)


def blend(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """``(1 - mask) images + mask pattern``, clamped because rounding may leave [0, 1] by one unit
    in the last place."""
    return ((1 - mask) * images + mask * pattern).clamp(0, 1)


def corner(
    height: int, width: int, shape: tuple[int, int, int], margin: int
) -> tuple[slice, slice]:
    """Row and column slices of a rectangle in the bottom-right corner.

    Raises:
        ConfigError: the rectangle does not fit the image.
    """
    top, left = shape[1] - margin - height, shape[2] - margin - width
    if top < 0 or left < 0:
        raise ConfigError(
            f"a {height}x{width} patch with margin {margin} does not fit {shape[1]}x{shape[2]} "
            "images; make it smaller"
        )
    return slice(top, top + height), slice(left, left + width)
