"""Random shares of a dataset, stratified by class: who has which of the training images.

Some images are held out: nobody trains on them. The provider of the teacher has all the rest. The
deployer has a share of those, and the defender a share of the deployer's. A defender may also have
a pool without labels: a share of the provider's images that the deployer does not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kdbench.data.base import ImageSet
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages

#: One image in so many of each class is held out.
HELD_OUT_ONE_IN = 10
#: So many images are held out at most.
MOST_HELD_OUT = 1000


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


def held_out_rows(labels: Tensor, seed: int) -> Tensor:
    """Rows of the training images that nobody trains on, in ascending order.

    They are a tenth of every class, at least one where a class has two, and at most
    :data:`MOST_HELD_OUT` in all. A class of one image has none.
    """

    def count(size: int) -> int:
        share = min(size // HELD_OUT_ONE_IN, size * MOST_HELD_OUT // len(labels))
        return max(share, 1 if size > 1 else 0)

    generator = torch.Generator().manual_seed(seed)
    rows = rows_of_each_class(labels, count, generator)
    # One of each of some thousand classes are more than enough, too.
    order = torch.randperm(len(rows), generator=generator)[:MOST_HELD_OUT]
    return rows[order.sort().values]


def held_out_images(train: ImageSet, seed: int) -> ImageSet:
    """The training images that nobody trains on. One seed always gives the same images."""
    return train.subset(held_out_rows(train.labels, seed))


def provider_images(train: ImageSet, seed: int) -> ImageSet:
    """The training images that are not held out: those of the teacher's provider."""
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[held_out_rows(train.labels, seed)] = False
    return train.subset(torch.nonzero(kept).flatten())


def drawn_share(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    """A random fraction of every class, at least two images of each: those of the deployer, of the
    defender, or of a pool.

    One seed always gives the same images. A fraction of 1.0 gives all.
    """
    if fraction >= 1:
        return images
    return images.subset(_drawn_rows(images.labels, fraction, seed))


def _drawn_rows(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """The rows of :func:`drawn_share`."""
    generator = torch.Generator().manual_seed(seed)
    return rows_of_each_class(labels, partial(drawn_size, fraction), generator)


def images_of_split(
    train: ImageSet,
    split: str,
    data_seed: int,
    transfer_fraction: float,
    clean_fraction: float,
    seed: int,
    unlabeled: float = 1.0,
) -> ImageSet:
    """The training images of a split: ``held out``, ``provider``, ``deployer``, ``defender``, or
    the ``pool`` that the defender has without labels.

    Args:
        data_seed: by it images are held out.
        transfer_fraction: the deployer's share of the provider's images.
        clean_fraction: the defender's share of the deployer's images.
        seed: by it all shares are drawn.
        unlabeled: the pool's share of the provider's images that the deployer does not have.
    """
    if split == "held out":
        return held_out_images(train, data_seed)
    images = provider_images(train, data_seed)
    if split == "provider":
        return images
    if split == "pool":
        return drawn_share(others_images(images, transfer_fraction, seed), unlabeled, seed)
    images = drawn_share(images, transfer_fraction, seed)
    return images if split == "deployer" else defender_images(images, clean_fraction, seed)


def defender_images(deployer: ImageSet, clean_fraction: float, seed: int) -> ImageSet:
    """The defender's share of the deployer's images."""
    return drawn_share(deployer, clean_fraction, seed)


def others_images(provider: ImageSet, transfer_fraction: float, seed: int) -> ImageSet:
    """The provider's images that the deployer does not have."""
    theirs = torch.ones(len(provider), dtype=torch.bool)
    theirs[_drawn_rows(provider.labels, transfer_fraction, seed)] = False
    return provider.subset(torch.nonzero(theirs).flatten())


def without_traces(images: ImageSet) -> TensorImages:
    """The images as a pool: pixels alone, from which nobody reads a class.

    Labels are -1. A set on disk is decoded, since the path of an image may name its class. The
    order is that of the SHA-256 of the pixels. In the order of a dataset the classes may follow
    each other, and whoever knows the seed could undo a shuffle.

    Raises:
        DatasetError: an image on disk cannot be decoded.
    """
    pool = images.decoded() if isinstance(images, StreamedImages) else images
    assert isinstance(pool, TensorImages)
    pixels = pool.pixels.contiguous()
    digests = [hashlib.sha256(image.numpy()).digest() for image in pixels]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return pool.subset(torch.tensor(order, dtype=torch.int64)).unlabeled()


def drawn_size(fraction: float, size: int) -> int:
    """How many images of a class of this size a share has."""
    return size if fraction >= 1 else max(min(2, size), round(fraction * size))
