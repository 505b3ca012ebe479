"""Pyramidal residual networks (Han et al., 2017, arXiv 1610.02915).

Their width grows a little at every block.

Deviation from the paper: the last batch norm of each block starts at scale 0, so each block starts
as its shortcut (Goyal et al., 2017, arXiv 1706.02677, section 5.1). A short training of the deep
network learns more so. The parameters are the same.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdbench.models.base import FeatureModel
from kdbench.models.wrn import initialize


class _AddShortcut(torch.autograd.Function):
    """Add x, padded with zero channels, to h in place: ``h[:, :C] += x``.

    Neither the zeros nor a third tensor are written, which saves memory and time.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, x: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        ctx.mark_dirty(h)
        h[:, : x.shape[1]] += x
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad[:, : ctx.channels]


class _Block(nn.Module):
    """What both kinds of block share: the shortcut, and the split at the tap.

    ``to_tap`` runs up to the pre-ReLU tensor that is the tap where this is the first block of a
    group. ``after_tap`` runs the rest. No ReLU follows the first batch norm, which is the paper's
    best arrangement.
    """

    channels_out: int
    tap_channels: int
    stride: int

    @property
    @abstractmethod
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm whose output is added to the shortcut."""

    @abstractmethod
    def to_tap(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def after_tap(self, x: Tensor, tap: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return self.after_tap(x, self.to_tap(x))

    def add(self, h: Tensor, x: Tensor) -> Tensor:
        """The sum of h and the shortcut of x, written into h.

        The shortcut is averaged over 2x2 pixels where the stride is 2. Its missing channels are 0.
        """
        if self.stride == 2:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return _AddShortcut.apply(h.to(torch.promote_types(h.dtype, x.dtype)), x)


class BasicBlock(_Block):
    """BN, conv3x3, BN-ReLU, conv3x3, BN. The tap is the first batch norm's output."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.channels_out, self.tap_channels = stride, width, channels_in
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def to_tap(self, x: Tensor) -> Tensor:
        return self.bn1(x)

    def after_tap(self, x: Tensor, tap: Tensor) -> Tensor:
        return self.add(self.bn3(self.conv2(F.relu(self.bn2(self.conv1(tap))))), x)


class Bottleneck(_Block):
    """BN, conv1x1, BN-ReLU, conv3x3, BN-ReLU, conv1x1 (x4), BN. The tap is the second batch norm's
    output."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.channels_out, self.tap_channels = stride, 4 * width, width
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(4 * width)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn4

    def to_tap(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv1(self.bn1(x)))

    def after_tap(self, x: Tensor, tap: Tensor) -> Tensor:
        return self.add(self.bn4(self.conv3(F.relu(self.bn3(self.conv2(F.relu(tap)))))), x)


class PyramidNet(FeatureModel):
    """PyramidNet of ``depth`` layers, built of ``block``. All blocks together add ``alpha`` to the
    width."""

    capturable = True
    stem_channels = 16

    def __init__(
        self,
        name: str,
        depth: int,
        alpha: int,
        block: type[BasicBlock] | type[Bottleneck],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.name, self.num_classes = name, num_classes
        # Three groups; a bottleneck has three convolutions and a basic block two.
        per_group = (depth - 2) // (9 if block is Bottleneck else 6)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        width, channels = 16.0, 16
        groups: list[list[BasicBlock | Bottleneck]] = []
        for i in range(3):
            blocks: list[BasicBlock | Bottleneck] = []
            for j in range(per_group):
                # The width itself is not rounded, so that the steps add up to alpha.
                width += alpha / (3 * per_group)
                blocks.append(block(channels, round(width), 2 if i > 0 and j == 0 else 1))
                channels = blocks[-1].channels_out
            groups.append(blocks)
        self.group = nn.ModuleList(nn.Sequential(*blocks) for blocks in groups)
        self.final_norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.group_channels = tuple(group[-1].channels_out for group in groups)
        self.tap_channels = (groups[1][0].tap_channels, groups[2][0].tap_channels, channels)
        initialize(self)
        for blocks in groups:
            for each in blocks:
                nn.init.zeros_(each.last_norm.weight)

    def first_group(self, x: Tensor) -> Tensor:
        return self.stem_and_first_group(x)[1]

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        return stem, self.group[0](stem)

    def _blocks(self, i: int) -> list[BasicBlock | Bottleneck]:
        return [cast(BasicBlock, block) for block in cast(nn.Sequential, self.group[i])]

    def tap_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Bottleneck: BN2, BN2, final. Basic: BN1, BN1, final.

        For basic blocks the official code returns BN2, whose size is not that of the tap.
        """
        first, second = (self._blocks(i)[0] for i in (1, 2))
        norm = "bn2" if isinstance(first, Bottleneck) else "bn1"
        return getattr(first, norm), getattr(second, norm), self.final_norm

    def tap(self, i: int, g: Tensor) -> Tensor:
        return self.final_norm(g) if i == 2 else self._blocks(i + 1)[0].to_tap(g)

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        first, *rest = self._blocks(i + 1)
        g = first.after_tap(g, tap)
        for block in rest:
            g = block(g)
        return g

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.fc(F.relu(tap).mean((2, 3)))


class PyramidNet110(PyramidNet):
    """PyramidNet-110, alpha 84, basic blocks."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__(name, 110, 84, BasicBlock, num_classes)


class PyramidNet200(PyramidNet):
    """PyramidNet-200, alpha 240, bottlenecks."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__(name, 200, 240, Bottleneck, num_classes)
