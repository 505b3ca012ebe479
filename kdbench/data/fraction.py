"""Random shares of a dataset, stratified by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdbench.data.base import ImageSet


def stratified_rows(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """``size`` rows in ascending order, each class in proportion (within one row)."""
    order = torch.randperm(len(labels), generator=generator)
    # Rows are sorted by their rank within their class, as a fraction of the class. Then any prefix
    # holds every class in proportion.
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        rows = order[labels[order] == label]
        rank[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return order[rank[order].argsort(stable=True)[:size]].sort().values


def rows_of_each_class(
    labels: Tensor, count: Callable[[int], int], generator: torch.Generator
) -> Tensor:
    """Random rows in ascending order: ``count(n)`` of a class that has n."""
    chosen = []
    for label in torch.unique(labels):
        rows = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(rows), generator=generator)
        chosen.append(rows[order[: count(len(rows))]])
    return torch.cat(chosen).sort().values


def defender_images(train: ImageSet, fraction: float, seed: int) -> ImageSet:
    """The defender's images: a random fraction of every class, at least two of each.

    One seed always gives the same images. A fraction of 1.0 gives all.
    """
    if fraction >= 1:
        return train

    def count(size: int) -> int:
        return max(min(2, size), round(fraction * size))

    generator = torch.Generator().manual_seed(seed)
    return train.subset(rows_of_each_class(train.labels, count, generator))
