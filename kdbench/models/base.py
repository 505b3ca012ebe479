"""What every model shows to every plugin, so that no plugin names an architecture.

A model is three feature *groups* followed by a head. Between group ``i`` and the next there is a
*tap*: the tensor that the next ReLU is about to see (overhaul of feature distillation, Heo et al.
2019). Models take float images (N, 3, H, W) in [0, 1]; normalisation is part of the model, so
triggers, attacks and defenses all act on plain pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

GROUPS = 3
#: Whose statistics batch norms use: the stored ones, or those of each batch.
BatchNormMode = Literal["running", "batch"]
#: ``edit(i, G_i) -> G_i'``: changes group ``i``'s output (0-based) before anything downstream sees
#: it.
Edit = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class FeatureOutput:
    """One forward pass.

    groups: G1..G3, group outputs after any edit, each (N, C, H, W).
    taps: T1..T3, pre-ReLU tensors derived from the edited groups, each (N, C, H, W).
    logits: (N, num_classes).
    """

    groups: tuple[Tensor, ...]
    taps: tuple[Tensor, ...]
    logits: Tensor


class FeatureModel(nn.Module, ABC):
    """Base of every model. A subclass sets the attributes and writes the four steps of
    :meth:`features`.

    Attributes:
        name: the registry name. num_classes: size of the logits.
        group_channels: channels of G1..G3. tap_channels: channels of T1..T3.
        batch_norm: how a frozen copy must run its batch norms; None: as the distiller asks. A
            defense that hands on a teacher may insist.
        capturable: :meth:`features` does the same operations for every batch of one shape: it draws
            nothing at random, decides nothing by values and never waits for the device. Its passes
            can then be captured as CUDA graphs.
    """

    name: str
    num_classes: int
    group_channels: tuple[int, ...]
    tap_channels: tuple[int, ...]
    batch_norm: BatchNormMode | None = None
    capturable: bool = False
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Non-persistent: the constants belong to the dataset, not to the weights.
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(1, 3, 1, 1), persistent=False)

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the per-channel constants (pixel units [0, 1]) that images are normalised with."""
        self.pixel_mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        self.pixel_std.copy_(torch.tensor(std).view(1, 3, 1, 1))

    @abstractmethod
    def first_group(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> G1."""

    @abstractmethod
    def tap(self, i: int, g: Tensor) -> Tensor:
        """Group output G_{i+1} -> its pre-ReLU tap. ``i`` is 0, 1 or 2."""

    @abstractmethod
    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        """(G_{i+1}, its tap) -> G_{i+2}; ``i`` is 0 or 1. The tap is passed so that its batch norm
        runs once."""

    @abstractmethod
    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        """(G3, its tap) -> logits (N, num_classes)."""

    @abstractmethod
    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        """For each tap the batch norm whose output it is (or that best describes its distribution),
        or None."""

    def head(self, g: Tensor) -> Tensor:
        """G3 -> logits (N, num_classes); the paper's B(.)."""
        return self.classify(g, self.tap(GROUPS - 1, g))

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        """Run the model and keep what plugins work with.

        Args:
            x: float images (N, 3, H, W) in [0, 1].
            edit: changes each group's output before the tap, the next group and the head see it.
        """
        g = self.first_group((x - self.pixel_mean) / self.pixel_std)
        groups, taps = [], []
        for i in range(GROUPS):
            if edit is not None:
                g = edit(i, g)
            tap = self.tap(i, g)
            groups.append(g)
            taps.append(tap)
            if i < GROUPS - 1:
                g = self.next_group(i, g, tap)
        return FeatureOutput(tuple(groups), tuple(taps), self.classify(g, tap))

    def forward(self, x: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in [0, 1] -> logits (N, num_classes)."""
        return self.features(x).logits
