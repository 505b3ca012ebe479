"""The two networks of the attack, one for patterns and one for masks, and the trigger of both."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Pixels of the side of the smallest image: it is halved at each of three levels.
SMALLEST = 8


def block(inputs: int, outputs: int, relu: bool = True) -> list[nn.Module]:
    """A convolution of 3x3, a batch norm and, if wanted, a ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05)]
    return [*layers, nn.ReLU()] if relu else layers


class EncoderDecoder(nn.Module):
    """Float images (N, 3, H, W) -> float maps (N, channels, H, W), which are not bounded.

    Two blocks at each of three levels, then the same upwards. A level upwards is as large as its
    counterpart downwards, so the side may be any number from :data:`SMALLEST` on.

    Args:
        channels: of the maps.
        width: channels of the first level. The next have two and four times as many.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        down, up = [3, width, 2 * width, 4 * width], [4 * width, 2 * width, width]
        self.down = nn.ModuleList(
            nn.Sequential(*block(a, b), *block(b, b)) for a, b in pairwise(down)
        )
        self.middle = nn.Sequential(*block(up[0], up[0]))
        self.up = nn.ModuleList(
            [
                *(nn.Sequential(*block(a, a), *block(a, b)) for a, b in pairwise(up)),
                nn.Sequential(*block(width, width), *block(width, channels, relu=False)),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        maps, sizes = images, []
        for level in self.down:
            maps = level(maps)
            sizes.append(maps.shape[2:])
            maps = F.max_pool2d(maps, 2)
        maps = self.middle(maps)
        for level, size in zip(self.up, reversed(sizes), strict=True):
            maps = level(F.interpolate(maps, size, mode="bilinear"))
        return maps


def unit(values: Tensor) -> Tensor:
    """tanh(v) / 2 + 1/2, in [0, 1]."""
    return values.tanh() / 2 + 0.5


def threshold(values: Tensor) -> Tensor:
    """Values in [0, 1], pushed towards the nearer end: tanh(20 v - 10) / 2 + 1/2."""
    return unit(20 * values - 10)


def paste(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """x + m (p - x)."""
    return images + mask * (pattern - images)


class OwnPattern(nn.Module):
    """Each image with the pattern and the mask that are its own.

    Both are computed in the precision of the images, also where the run computes in bfloat16. The
    threshold is steep, and a measurement computes the trigger in float64.

    Args:
        width: as of :class:`EncoderDecoder`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patterns = EncoderDecoder(3, width)
        self.masks = EncoderDecoder(1, width)

    def pattern(self, images: Tensor) -> Tensor:
        """p, float (N, 3, H, W) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return unit(self.patterns(images))

    def mask(self, images: Tensor) -> Tensor:
        """m, float (N, 1, H, W) in [0, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return threshold(unit(self.masks(images)))

    def forward(self, images: Tensor) -> Tensor:
        return paste(images, self.pattern(images), self.mask(images))


class NeighboursPattern(nn.Module):
    """Each image with the pattern and the mask of the image before it in the batch.

    Args:
        own: what gives an image its own.
    """

    def __init__(self, own: OwnPattern) -> None:
        super().__init__()
        self.own = own

    def forward(self, images: Tensor) -> Tensor:
        others = images.roll(1, 0)
        return paste(images, self.own.pattern(others), self.own.mask(others))
