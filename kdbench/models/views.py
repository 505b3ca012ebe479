"""A teacher as a distiller sees it: frozen, in a stated batch-norm mode, perhaps with its features
edited."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdbench.models.base import BatchNormMode, Edit, FeatureModel, FeatureOutput

__all__ = ["BatchNormMode", "Edited", "FrozenTeacher", "batch_statistics"]

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def _use_batch_statistics(model: nn.Module) -> list[tuple[_Norm, bool, bool]]:
    """Let every batch norm use each batch's statistics and leave the stored ones alone. Returns
    what it changed."""
    before = []
    for module in model.modules():
        if isinstance(module, _Norm):
            before.append((module, module.training, module.track_running_stats))
            module.train()
            # batch statistics, and neither buffers nor counters move
            module.track_running_stats = False
    return before


@contextmanager
def batch_statistics(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within, the model's batch norms use each batch's statistics, and no buffer moves; afterwards
    all is as it was."""
    before = _use_batch_statistics(model) if wanted else []
    try:
        yield
    finally:
        for module, training, tracking in before:
            module.training, module.track_running_stats = training, tracking


class Edited(FeatureModel):
    """A model whose group outputs pass through ``editor(i, G)``; to everything downstream it is
    just another model."""

    def __init__(self, model: FeatureModel, editor: nn.Module) -> None:
        super().__init__()
        self.model, self.editor = model, editor
        self.name, self.num_classes = model.name, model.num_classes
        self.group_channels, self.tap_channels = model.group_channels, model.tap_channels
        self.pixel_mean, self.pixel_std = model.pixel_mean, model.pixel_std
        self.batch_norm = model.batch_norm

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """As both parts are; an editor says so of itself by an attribute of that name."""
        return self.model.capturable and getattr(self.editor, "capturable", False)

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        def both(i: int, g: Tensor) -> Tensor:
            g = self.editor(i, g)
            return g if edit is None else edit(i, g)

        return self.model.features(x, edit=both)

    def head(self, g: Tensor) -> Tensor:
        """An edited G3 -> logits."""
        return self.model.head(g)

    def first_group(self, x: Tensor) -> Tensor:
        return self.editor(0, self.model.first_group(x))

    def tap(self, i: int, g: Tensor) -> Tensor:
        return self.model.tap(i, g)

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        return self.editor(i + 1, self.model.next_group(i, g, tap))

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.model.classify(g, tap)

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return self.model.tap_norms()


class FrozenTeacher:
    """A teacher that nothing can train: no gradients, no buffer updates.

    Not an nn.Module on purpose: assigned inside an objective it must not become one of its
        parameters.

    Args:
        model: copied, so that freezing does not reach the caller's model.
        batch_norm: ``running`` uses the stored statistics; ``batch`` uses those of each batch and
            leaves the stored ones untouched (what the official FKD code outputs, see
            docs/methods.md). A model that insists on one (``FeatureModel.batch_norm``) gets its
            own.
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
    def tap_channels(self) -> tuple[int, ...]:
        return self.model.tap_channels

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return self.model.tap_norms()

    @torch.no_grad()
    def features(self, x: Tensor) -> FeatureOutput:
        """Float images (N, 3, H, W) in [0, 1] -> features and logits without a graph."""
        return self.model.features(x)
