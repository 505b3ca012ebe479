"""Wide residual networks for small images (Zagoruyko and Komodakis, 2016, arXiv 1605.07146)."""

from __future__ import annotations

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.base import FeatureModel


def initialize(model: nn.Module) -> None:
    """Draw convolutions from N(0, sqrt(2 / (k^2 C_out))), and set linear biases to 0.

    Batch norms need nothing: they start with gamma 1 and beta 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class PreactBlock(nn.Module):
    """BN-ReLU-conv3x3 twice, plus a shortcut.

    Where the width changes the shortcut is a 1x1 convolution of the first activation.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            if channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.after_norm(x, self.bn1(x))

    def after_norm(self, x: Tensor, normed: Tensor) -> Tensor:
        """Run the block from the output of its first batch norm on, which may also be a tap."""
        a = F.relu(normed)
        h = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return h + (x if self.shortcut is None else self.shortcut(a))


class WideResNet(FeatureModel):
    """WRN-depth-width. The taps are the first batch norms of groups 2 and 3, and the final one."""

    capturable = True
    stem_channels = 16

    def __init__(self, name: str, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.name, self.num_classes = name, num_classes
        channels = (16 * width, 32 * width, 64 * width)
        self.group_channels = self.tap_channels = channels
        # The paper's depth is 6n + 4, with n blocks in each of the three groups.
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        groups = []
        for i, (c_in, c) in enumerate(zip((16, *channels[:2]), channels, strict=True)):
            stride = 1 if i == 0 else 2
            first = PreactBlock(c_in, c, stride)
            groups.append(nn.Sequential(first, *(PreactBlock(c, c, 1) for _ in range(blocks - 1))))
        self.group = nn.ModuleList(groups)
        self.final_norm = nn.BatchNorm2d(channels[-1])
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize(self)

    def first_group(self, x: Tensor) -> Tensor:
        return self.stem_and_first_group(x)[1]

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        return stem, self.group[0](stem)

    def _blocks(self, i: int) -> list[PreactBlock]:
        return [cast(PreactBlock, block) for block in cast(nn.Sequential, self.group[i])]

    def tap_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return self._blocks(1)[0].bn1, self._blocks(2)[0].bn1, self.final_norm

    def tap(self, i: int, g: Tensor) -> Tensor:
        return self.tap_norms()[i](g)

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        first, *rest = self._blocks(i + 1)
        g = first.after_norm(g, tap)
        for block in rest:
            g = block(g)
        return g

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.fc(F.relu(tap).mean((2, 3)))
