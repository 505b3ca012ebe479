"""Images as kdbench sees them: a set of uint8 pictures with labels that can be iterated, subset and
extended."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """images: float32 (N, 3, H, W) in [0, 1]; labels: int64 (N,); positions: int64 (N,), rows in
    the iterated set."""

    images: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random shift by up to ``pad`` pixels (reflected border) and, if ``flip``, a random horizontal
    mirror."""

    pad: int = 4
    flip: bool = True


class ImageSet(ABC):
    """A labelled set of equally sized images. ``labels`` is int64 (N,) on the CPU; ``shape`` is (3,
    H, W)."""

    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> ImageSet:
        """A view on rows ``indices`` (int64); an index may repeat."""

    @abstractmethod
    def extended(self, images: Tensor, labels: Tensor) -> ImageSet:
        """This set with float images (M, 3, H, W) in [0, 1] and int64 labels (M,) appended (stored
        as uint8)."""

    @abstractmethod
    def read(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Rows ``indices`` as float32 images (M, 3, H, W) in [0, 1], not augmented."""

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
        """One pass. With a (CPU) generator rows come shuffled and augmentation draws from it;
        without, in order."""


@dataclass(frozen=True)
class Dataset:
    """A named dataset.

    name: as asked for, e.g. ``signs``. train, test: image sets. num_classes; class_names: one per
    class.
    mean, std: per-channel constants in [0, 1] that models normalise with. augmentation: for
    training.
    train_digest: SHA-256 over all that training can depend on: the kind of dataset, class names,
    shape, labels and pixels (or file list with sizes when streaming) of the training images, mean,
    std, augmentation. test_digest: the same of the test images, without the last three. A change to
    one split leaves the other's digest as it was.
    note: printed with results, e.g. that a subset is not the official dataset ('' if nothing to
    say).
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augmentation: Augmentation
    train_digest: str
    test_digest: str
    note: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over both digests: it changes with anything that changes a result."""
        return hashlib.sha256(f"{self.train_digest}\n{self.test_digest}".encode()).hexdigest()

    @property
    def image_size(self) -> int:
        return self.train.shape[1]
