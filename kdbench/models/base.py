"""The interface of every model. Plugins use it, so no plugin has to name an architecture.

A model is three feature *groups* followed by a head. After each group there is a *tap*, the tensor
that goes into the next ReLU (overhaul of feature distillation, Heo et al. 2019). Models take float
images (N, 3, H, W) in [0, 1]. Normalisation is part of the model. So triggers, attacks and defenses
all act on plain pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

GROUPS = 3
#: Which statistics batch norms use: the stored ones (``running``), or those of each batch.
BatchNormMode = Literal["running", "batch"]
#: ``edit(i, g)`` returns what takes the place of the output ``g`` of group ``i`` (0, 1 or 2).
Edit = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class FeatureOutput:
    """One forward pass."""

    groups: tuple[Tensor, ...]
    """G1 to G3: the outputs of the groups after any edit, each (N, C, H, W)."""
    taps: tuple[Tensor, ...]
    """T1 to T3: pre-ReLU tensors computed from the edited groups, each (N, C, H, W)."""
    logits: Tensor
    """(N, num_classes)."""
    stem: Tensor | None = None
    """What goes into the first group, (N, C, H, W). None: the network does not give it."""


class FeatureModel(nn.Module, ABC):
    """Base of every model. A subclass sets the attributes and defines the four steps of
    :meth:`features`.

    A network is kept in a file and compared with a new one of its name. So training may change its
    parameters and buffers, but no other attribute and no class of a part. In evaluation an image's
    result must not depend on the rest of its batch, since images come in random order.
    """

    name: str
    """As in the registry."""
    num_classes: int
    """The size of the logits."""
    group_channels: tuple[int, ...]
    """The channels of G1 to G3."""
    tap_channels: tuple[int, ...]
    """The channels of T1 to T3."""
    stem_channels: int | None = None
    """The channels of what goes into the first group. None: the network does not give it."""
    batch_norm: BatchNormMode | None = None
    """How a frozen copy must run its batch norms; None where the distiller decides. A defense that
    returns a teacher may set it."""
    capturable: bool = False
    """Whether passes can be captured as CUDA graphs, which makes training several times faster.

    Set it if :meth:`features` does the same operations for every batch of one shape. It must draw
    nothing at random, decide nothing by values, and never wait for the device.
    """
    pixel_mean: Tensor
    """(1, 3, 1, 1), in [0, 1]."""
    pixel_std: Tensor
    """(1, 3, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: the constants belong to the dataset, so a state_dict does not hold them.
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(1, 3, 1, 1), persistent=False)

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the constants that images are normalised with, one per channel, in [0, 1]."""
        self.pixel_mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        self.pixel_std.copy_(torch.tensor(std).view(1, 3, 1, 1))

    @abstractmethod
    def first_group(self, x: Tensor) -> Tensor:
        """G1 of normalised images (N, 3, H, W)."""

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """What goes into the first group, and G1, of normalised images (N, 3, H, W).

        A network that gives its stem defines this, and sets ``stem_channels``.
        """
        return None, self.first_group(x)

    @abstractmethod
    def tap(self, i: int, g: Tensor) -> Tensor:
        """The pre-ReLU tap of ``g``, which is the output of group ``i`` (0, 1 or 2)."""

    @abstractmethod
    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        """The output of the group after group ``i`` (0 or 1), whose output is ``g``.

        The tap of ``g`` is passed, too, so that its batch norm runs only once.
        """

    @abstractmethod
    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        """The logits (N, num_classes) of G3 and its tap."""

    @abstractmethod
    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        """For each tap the batch norm whose output it is, or that describes its distribution best.

        None where there is no such batch norm.
        """

    def head(self, g: Tensor) -> Tensor:
        """The logits (N, num_classes) of G3: the paper's B(.)."""
        return self.classify(g, self.tap(GROUPS - 1, g))

    def pooled(self, output: FeatureOutput) -> Tensor:
        """What the linear classifier takes, float32 (N, C).

        Here it is the mean of ReLU(T3) over the image. A network with another head overrides it.
        """
        return output.taps[-1].float().relu().mean((2, 3))

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        """Run the model and return what plugins work with.

        Args:
            x: float images (N, 3, H, W) in [0, 1].
            edit: its result takes the place of each group's output, for the tap, the next group and
                the head.
        """
        stem, g = self.stem_and_first_group((x - self.pixel_mean) / self.pixel_std)
        groups, taps = [], []
        for i in range(GROUPS):
            if edit is not None:
                g = edit(i, g)
            tap = self.tap(i, g)
            groups.append(g)
            taps.append(tap)
            if i < GROUPS - 1:
                g = self.next_group(i, g, tap)
        return FeatureOutput(tuple(groups), tuple(taps), self.classify(g, tap), stem)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, num_classes) of float images (N, 3, H, W) in [0, 1]."""
        return self.features(x).logits
