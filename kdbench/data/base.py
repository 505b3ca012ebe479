"""Images as kdbench sees them: labelled sets of uint8 pictures.

A set can be iterated in batches, cut down to some of its rows, and extended.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kdbench.data.left_out import NOTHING, LeftOut


@dataclass(frozen=True)
class Batch:
    """Some images of a set with their labels."""

    images: Tensor
    """float32 (N, 3, H, W) in [0, 1]."""
    labels: Tensor
    """int64 (N,)."""
    positions: Tensor
    """int64 (N,): the rows of the set that the images come from."""
    progress: float = 0.0
    """Share of the training's steps that are done, in [0, 1). The loop sets it."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images."""

    pad: int = 4
    """Pixels: an image is shifted by at most this much in each direction, and reflected at its
    border."""
    flip: bool = True
    """Mirror every second image, on average, left to right."""


class ImageSet(ABC):
    """A labelled set of images of one size."""

    labels: Tensor
    """int64 (N,) on the CPU."""
    shape: tuple[int, int, int]
    """(3, H, W)."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> ImageSet:
        """A view of the rows ``indices``, int64 (M,). An index may repeat."""

    def unlabeled(self) -> Self:
        """The same images, each with the label -1. This set stays as it is."""
        # A copy of the object alone: both share the pixels, or the files.
        view = copy.copy(self)
        view.labels = torch.full_like(self.labels, -1)
        return view

    @abstractmethod
    def extended(self, images: Tensor, labels: Tensor) -> ImageSet:
        """A new set with more images at its end.

        Args:
            images: float (M, 3, H, W) in [0, 1], stored as uint8.
            labels: int64 (M,).
        """

    @abstractmethod
    def read(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The images of the rows ``indices``, float32 (M, 3, H, W) in [0, 1], not augmented."""

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One pass over the set.

        Args:
            batch_size: at least 1; the last batch may be smaller.
            device: where the tensors of a batch are put.
            generator: of the CPU. It shuffles the rows and draws the augmentation. Without one the
                rows come in order.
            augmentation: None for the images as they are.
            drop_last: leave out a last batch that is smaller.
        """


@dataclass(frozen=True)
class Dataset:
    """A named dataset."""

    name: str
    """As in the tables of results, for example ``signs``."""
    train: ImageSet
    test: ImageSet
    num_classes: int
    class_names: tuple[str, ...]
    """One for each class."""
    mean: tuple[float, float, float]
    """Models normalise images with it, per channel, in [0, 1]."""
    std: tuple[float, float, float]
    """As ``mean``."""
    augmentation: Augmentation
    """For training."""
    train_digest: str
    """SHA-256 over all that training can depend on.

    That is the kind of dataset, the class names, and the shape, labels and pixels of the training
    images. For streamed images the list of files and sizes stands for the pixels. Mean, std and
    augmentation also count.
    """
    test_digest: str
    """The same of the test images, without mean, std and augmentation. A change to one split leaves
    the other's digest as it was."""
    note: str = ""
    """Printed with results, for example that a subset is not the official dataset."""
    left_out: LeftOut = NOTHING
    """What lies in the dataset's folders and does not belong to it."""

    @property
    def digest(self) -> str:
        """SHA-256 over both digests. It changes with anything that can change a result."""
        return hashlib.sha256(f"{self.train_digest}\n{self.test_digest}".encode()).hexdigest()

    @property
    def image_size(self) -> int:
        return self.train.shape[1]
