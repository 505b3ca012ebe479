"""A teacher as a distiller sees it.

It is frozen, its batch norms are in a stated mode, and its features may be edited.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from kdbench.models.base import GROUPS, BatchNormMode, Edit, FeatureModel, FeatureOutput

__all__ = ["BatchNormMode", "Edited", "FrozenTeacher", "Pruned", "batch_statistics"]

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def _use_batch_statistics(model: nn.Module) -> list[tuple[_Norm, bool, bool]]:
    """Let every batch norm use each batch's statistics, and leave the stored ones as they are.

    Returns:
        For each batch norm its ``training`` and ``track_running_stats`` as they were.
    """
    before = []
    for module in model.modules():
        if isinstance(module, _Norm):
            before.append((module, module.training, module.track_running_stats))
            module.train()
            # In training mode without tracking, neither buffers nor counters change.
            module.track_running_stats = False
    return before


@contextmanager
def batch_statistics(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within, the model's batch norms use each batch's statistics, and no buffer changes.

    Afterwards the model is as it was. Nothing happens unless ``wanted``.
    """
    before = _use_batch_statistics(model) if wanted else []
    try:
        yield
    finally:
        for module, training, tracking in before:
            module.training, module.track_running_stats = training, tracking


class Edited(FeatureModel):
    """A model whose group outputs pass through ``editor(i, g)``. It can be used like any model."""

    def __init__(self, model: FeatureModel, editor: nn.Module) -> None:
        super().__init__()
        self.model, self.editor = model, editor
        self.name, self.num_classes = model.name, model.num_classes
        self.group_channels, self.tap_channels = model.group_channels, model.tap_channels
        # The inner model normalises. These are its own tensors, so set_normalization reaches it.
        self.pixel_mean, self.pixel_std = model.pixel_mean, model.pixel_std
        self.batch_norm = model.batch_norm

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Whether both parts are. An editor may have an attribute of this name."""
        return self.model.capturable and getattr(self.editor, "capturable", False)

    @property
    def stem_channels(self) -> int | None:  # type: ignore[override]
        return self.model.stem_channels

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        def both(i: int, g: Tensor) -> Tensor:
            g = self.editor(i, g)
            return g if edit is None else edit(i, g)

        return self.model.features(x, edit=both)

    def head(self, g: Tensor) -> Tensor:
        """The logits of a G3 that the editor has changed already."""
        return self.model.head(g)

    def first_group(self, x: Tensor) -> Tensor:
        return self.stem_and_first_group(x)[1]

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        stem, g = self.model.stem_and_first_group(x)
        return stem, self.editor(0, g)

    def tap(self, i: int, g: Tensor) -> Tensor:
        return self.model.tap(i, g)

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        return self.editor(i + 1, self.model.next_group(i, g, tap))

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.model.classify(g, tap)

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return self.model.tap_norms()

    def pooled(self, output: FeatureOutput) -> Tensor:
        return self.model.pooled(output)


class Pruned(FeatureModel):
    """A model some of whose last channels are zero. It can be used like any model.

    Args:
        model: the model.
        kept: per channel 1, or 0 where pruned, (C,) or (1, C, 1, 1).
        site: ``tap``: the last tap is multiplied by ``kept``. ``group``: the last group output is,
            for a model whose last tap is that output itself. An edit of the group comes first, so
            that it cannot bring a channel back.
    """

    kept: Tensor

    def __init__(self, model: FeatureModel, kept: Tensor, site: Literal["tap", "group"]) -> None:
        super().__init__()
        self.model, self.site = model, site
        self.register_buffer("kept", kept.detach().clone().float().view(1, -1, 1, 1))
        self.name, self.num_classes = model.name, model.num_classes
        self.group_channels, self.tap_channels = model.group_channels, model.tap_channels
        self.pixel_mean, self.pixel_std = model.pixel_mean, model.pixel_std
        self.batch_norm = model.batch_norm

    @property
    def stem_channels(self) -> int | None:  # type: ignore[override]
        return self.model.stem_channels

    def _masked(self, features: Tensor) -> Tensor:
        return features * self.kept.to(features.dtype)

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        if self.site == "tap":
            return super().features(x, edit)  # by the steps below

        def then_masked(i: int, g: Tensor) -> Tensor:
            g = g if edit is None else edit(i, g)
            return self._masked(g) if i == GROUPS - 1 else g

        return self.model.features(x, edit=then_masked)

    def first_group(self, x: Tensor) -> Tensor:
        return self.model.first_group(x)

    def stem_and_first_group(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.model.stem_and_first_group(x)

    def tap(self, i: int, g: Tensor) -> Tensor:
        tap = self.model.tap(i, g)
        return self._masked(tap) if i == GROUPS - 1 else tap

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        g = self.model.next_group(i, g, tap)
        return self._masked(g) if self.site == "group" and i + 1 == GROUPS - 1 else g

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        # A library model reads the group and not the tap, and is handed groups that somebody else
        # may have edited.
        return self.model.classify(self._masked(g) if self.site == "group" else g, tap)

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return self.model.tap_norms()

    def pooled(self, output: FeatureOutput) -> Tensor:
        return self.model.pooled(output)


class FrozenTeacher:
    """A teacher that nothing can train: no gradients, no changes of buffers.

    It is not an nn.Module on purpose. An objective that keeps it as an attribute would otherwise
    train its parameters.

    Args:
        model: it is copied, so that the caller's model is not frozen.
        batch_norm: ``running`` uses the stored statistics. ``batch`` uses those of each batch and
            does not change the stored ones; the official FKD code does this (docs/methods.md). A
            model's own ``FeatureModel.batch_norm`` has precedence.
    """

    def __init__(self, model: FeatureModel, batch_norm: BatchNormMode = "running") -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.batch_norm = model.batch_norm or batch_norm
        if self.batch_norm == "batch":
            _use_batch_statistics(self.model)

    @property
    def group_channels(self) -> tuple[int, ...]:
        return self.model.group_channels

    @property
    def stem_channels(self) -> int | None:
        return self.model.stem_channels

    @property
    def tap_channels(self) -> tuple[int, ...]:
        return self.model.tap_channels

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return self.model.tap_norms()

    @torch.no_grad()
    def features(self, x: Tensor) -> FeatureOutput:
        """Features and logits of float images (N, 3, H, W) in [0, 1], without a graph."""
        return self.model.features(x)

    def pooled(self, output: FeatureOutput) -> Tensor:
        """What the linear classifier takes, as :meth:`FeatureModel.pooled` has it."""
        return self.model.pooled(output)
