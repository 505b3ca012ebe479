"""A share of a dataset: the defender's images."""

from __future__ import annotations

import torch

from kdbench.data.base import ImageSet


def defender_images(train: ImageSet, fraction: float, seed: int) -> ImageSet:
    """The defender's images: a fixed random fraction of every class, at least two of each; all of
    them for 1.0."""
    if fraction >= 1:
        return train
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in torch.unique(train.labels):
        of_class = torch.nonzero(train.labels == label).flatten()
        count = max(min(2, len(of_class)), round(fraction * len(of_class)))
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    return train.subset(torch.sort(torch.cat(rows)).values)
