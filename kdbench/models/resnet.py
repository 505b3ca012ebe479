"""CIFAR residual networks (He et al., 2015, arXiv 1512.03385), arranged as in Heo et al. (2019).

The ReLU stands at the start of each block instead of after the addition. So a group's output is
pre-ReLU and is itself the tap.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.base import FeatureModel
from kdbench.models.wrn import initialize


class ReluFirstBlock(nn.Module):
    """ReLU, then conv-BN-ReLU-conv-BN, plus a shortcut from the first ReLU.

    The shortcut is a 1x1 convolution with BN where the stride is not 1.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)


class ResNet(FeatureModel):
    """ResNet-(6n+2) with widths 16, 32, 64."""

    capturable = True
    stem_channels = 16

    def __init__(self, name: str, depth: int, num_classes: int) -> None:
        super().__init__()
        self.name, self.num_classes = name, num_classes
        channels = (16, 32, 64)
        self.group_channels = self.tap_channels = channels
        # The depth is 6n + 2: n blocks of two convolutions in each group, the stem, the classifier.
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        groups = []
        for i, (c_in, c) in enumerate(zip((16, *channels[:2]), channels, strict=True)):
            first = ReluFirstBlock(c_in, c, 1 if i == 0 else 2)
            groups.append(
                nn.Sequential(first, *(ReluFirstBlock(c, c, 1) for _ in range(blocks - 1)))
            )
        self.group = nn.ModuleList(groups)
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize(self)

    def first_group(self, x: Tensor) -> Tensor:
        return self.stem_and_first_group(x)[1]

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        return stem, self.group[0](stem)

    def tap_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The last batch norm of each group. It is an approximation, without the shortcut."""
        return tuple(cast(ReluFirstBlock, cast(nn.Sequential, g)[-1]).bn2 for g in self.group)

    def tap(self, i: int, g: Tensor) -> Tensor:
        return g

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        return self.group[i + 1](tap)

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.fc(F.relu(tap).mean((2, 3)))
