"""What a network will be trained on, in words and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kdbench._counted import counted
from kdbench.data import load
from kdbench.data.base import Dataset, ImageSet
from kdbench.data.fraction import drawn_size, held_out_rows
from kdbench.data.left_out import LeftOut
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages
from kdbench.untrusted.files import size_in_words
from kdbench.untrusted.text import shown_name


@dataclass(frozen=True)
class ClassCount:
    """A class with the number of its images."""

    name: str
    """Of the class."""
    images: int
    """How many it has."""


@dataclass(frozen=True)
class SplitDescription:
    """What is known of the training or the test images."""

    images: int
    """How many there are."""
    least: ClassCount
    """The first class with the fewest images."""
    most: ClassCount
    """The first class with the most images."""
    streamed: bool
    """Whether they stay on disk and are decoded on each pass."""
    why: str
    """Why they are streamed. Empty: they are in memory."""

    @property
    def a_class(self) -> str:
        """``150 (bee) to 210 (ant)``."""
        if self.least.images == self.most.images:
            return str(self.most.images)
        return " to ".join(f"{at.images} ({shown_name(at.name)})" for at in (self.least, self.most))

    @property
    def where(self) -> str:
        """``in memory``, or ``streamed from disk`` with the reason."""
        return f"streamed from disk, since {self.why}" if self.streamed else "in memory"


@dataclass(frozen=True)
class Shares:
    """How many training images each side has."""

    held_out: int
    """Nobody trains on these."""
    provider: int
    """All others: those of the teacher's provider."""
    deployer: int
    """Some of the provider's, or all."""
    defender: int
    """Some of the deployer's, or all."""
    unlabeled: int | None = None
    """Without labels the defender's, too: some that the deployer does not have. None: it was not
    asked for."""

    @classmethod
    def of(
        cls,
        labels: Tensor,
        seed: int,
        transfer: float,
        clean: float,
        unlabeled: float | None = None,
    ) -> Shares:
        """The shares of a training set with these labels.

        Args:
            seed: by it images are held out.
            transfer: the deployer's share of the provider's images.
            clean: the defender's share of the deployer's.
            unlabeled: the defender's share of those that the deployer does not have.
        """
        rows, classes = held_out_rows(labels, seed), int(labels.max()) + 1
        provider = (labels.bincount() - labels[rows].bincount(minlength=classes)).tolist()
        deployer = [drawn_size(transfer, size) for size in provider]
        defender = [drawn_size(clean, size) for size in deployer]
        pool = None
        if unlabeled is not None:
            others = (has - lacks for has, lacks in zip(provider, deployer, strict=True))
            pool = sum(drawn_size(unlabeled, size) for size in others)
        return cls(len(rows), sum(provider), sum(deployer), sum(defender), pool)

    def line(self) -> str:
        """The shares in words."""
        pool = "" if self.unlabeled is None else f" and {self.unlabeled} others without labels"
        return (
            f"of the train images {self.held_out} are held out, the teacher's provider has "
            f"{self.provider}, the deployer {self.deployer}, the defender {self.defender}{pool}"
        )


@dataclass(frozen=True)
class Description:
    """What is known of a dataset before anything is trained on it."""

    name: str
    """As in the tables of results."""
    image_size: int
    """Pixels a side."""
    image_size_from: str
    """Who chose the size. Empty: the dataset has no other."""
    class_names: tuple[str, ...]
    """By index."""
    train: SplitDescription
    test: SplitDescription
    left_out: LeftOut
    """What lies in its folders and does not belong to it."""
    shares: Shares | None = None
    """Who has how many of the training images. None: no run has shared them out."""

    def lines(self) -> list[str]:
        """The description for people, then who has which images, and what was left out, if
        anything."""
        side, why = self.image_size, self.image_size_from and f" ({self.image_size_from})"
        parts = [
            f"{shown_name(self.name)}: images {side}x{side}{why}",
            counted(len(self.class_names), "class"),
            f"{self.train.images} train",
            counted(self.test.images, "test image"),
            f"{self.train.a_class} train images a class",
        ]
        if self.train.where == self.test.where:
            parts.append(self.train.where)
        else:
            parts += [f"train {self.train.where}", f"test {self.test.where}"]
        further = ["" if self.shares is None else self.shares.line(), self.left_out.line()]
        return [", ".join(parts), *(f"{shown_name(self.name)}: {line}" for line in further if line)]

    def as_dict(self) -> dict[str, Any]:
        """The description as plain values."""
        values = asdict(self)
        values["num_classes"] = len(self.class_names)
        values["left_out"] = values["left_out"]["counts"]
        return values


def describe(
    dataset: Dataset, image_size_from: str = "", shares: Shares | None = None
) -> Description:
    """The description of a loaded dataset.

    Args:
        image_size_from: who chose its size.
        shares: who has how many of its training images.
    """
    train, test = (
        _split(part, dataset.class_names, dataset.image_size)
        for part in (dataset.train, dataset.test)
    )
    return Description(
        name=dataset.name,
        image_size=dataset.image_size,
        image_size_from=image_size_from,
        class_names=dataset.class_names,
        train=train,
        test=test,
        left_out=dataset.left_out,
        shares=shares,
    )


def _split(part: ImageSet, names: Sequence[str], side: int) -> SplitDescription:
    counts = part.labels.bincount(minlength=len(names)).tolist()
    least, most = (ClassCount(names[at], counts[at]) for at in map(counts.index, _ends(counts)))
    streamed = not isinstance(part, TensorImages)
    why = _why(part, side) if streamed else ""
    return SplitDescription(len(part), least, most, streamed, why)


def _ends(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _why(part: ImageSet, side: int) -> str:
    """Why a set is streamed. A cut of a large set is streamed as the large set is."""
    files, limit = len(part), load.MEMORY_LIMIT
    if isinstance(part, StreamedImages):
        files = len(part.parts[0])
    if files * side * side * 3 > limit:
        return f"{counted(files, 'image')} of {side}x{side} take more than {size_in_words(limit)}"
    return "its loader streams them"
