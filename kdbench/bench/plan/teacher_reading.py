"""How a teacher that is imported will be read: what was said, what its dataset says, what is
assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench._counted import counted
from kdbench.bench.store.teacher_record import (
    Basis,
    Channels,
    ClassOrder,
    Reading,
    check_normalization,
)
from kdbench.data import Dataset, DatasetSource, dataset_source, load_dataset
from kdbench.data.class_order import ORDERS, check_names, read_order, spelt_as
from kdbench.data.layout import class_folders
from kdbench.errors import ConfigError, KdbenchError
from kdbench.untrusted.weights.hub import Hints


@dataclass(frozen=True)
class Stated:
    """What is said of a teacher."""

    dataset: str
    """The dataset that it was trained on."""
    data_dir: Path | None = None
    """Where the dataset lies, if it needs a folder."""
    num_classes: int | None = None
    """Classes. Here and below, None: nobody said it."""
    image_size: int | None = None
    """Pixels a side."""
    mean: Channels | None = None
    """What its input is normalised with."""
    std: Channels | None = None
    """As ``mean``."""
    class_order: str | None = None
    """``text``, ``number`` or the name of a file."""
    hints: Hints = field(default_factory=Hints)
    """What the description of a repository on the hub says."""

    def check(self) -> None:
        """Raise ConfigError where mean and standard deviation cannot be."""
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std belong together; give both")
        if self.mean is not None and self.std is not None:
            check_normalization(self.mean, self.std)


class TeacherReading:
    """Puts together what is said of a teacher and what its dataset says.

    Args:
        stated: what is said.
        sources: datasets by name.
    """

    def __init__(self, stated: Stated, sources: Mapping[str, DatasetSource]) -> None:
        stated.check()
        self.stated, self.sources = stated, sources
        self.source = dataset_source(stated.dataset, sources)
        self.order = _stated_order(stated.class_order)
        #: Why the dataset is not here. Empty: it is, or nobody has looked.
        self.absent = ""

    @property
    def folder(self) -> Path | None:
        """Where the dataset lies, as a full path."""
        path = self.stated.dataset.partition(":")[2] if self.source.takes_path else ""
        folder = Path(path) if path else self.stated.data_dir
        return None if folder is None else folder.expanduser().absolute()

    @cached_property
    def image_size(self) -> tuple[int, Basis]:
        """Pixels a side, and who says so.

        Raises:
            ConfigError: nobody does.
        """
        if self.stated.image_size is not None:
            return self.stated.image_size, "given"
        if self.stated.hints.image_size is not None:
            return self.stated.hints.image_size, "hub"
        if self.source.image_size is not None:
            return self.source.image_size, "assumed"
        raise self._unknown()

    @cached_property
    def num_classes(self) -> tuple[int, Basis]:
        """How many classes the network tells apart, and who says so.

        Raises:
            ConfigError: nobody does.
        """
        if self.stated.num_classes is not None:
            return self.stated.num_classes, "given"
        if self.stated.hints.num_classes is not None:
            return self.stated.hints.num_classes, "hub"
        if (count := self.whole) is not None:
            return count, "dataset"
        if self.order is not None:
            return len(self.order), "given"
        raise self._unknown()

    @cached_property
    def whole(self) -> int | None:
        """How many classes the whole dataset has. None: not known here."""
        if self.source.num_classes is not None:
            return self.source.num_classes
        folder = self.folder
        if self.source.takes_path and folder is not None and folder.is_dir():
            try:
                return len(class_folders(folder))
            except (KdbenchError, OSError) as error:
                self.absent = str(error)
                return None
        return None if self.data is None else self.data.num_classes

    def _unknown(self) -> ConfigError:
        """The numbers of the dataset are not known: an error that names the options for them."""
        numbers = {"--num-classes": self.source.num_classes, "--image-size": self.source.image_size}
        missing = [option for option, number in numbers.items() if number is None]
        side = "" if "--image-size" in missing else f" (images of {_side(self.image_size)})"
        why = f": {self.absent}" if self.absent else ""
        return ConfigError(
            f"what {self.stated.dataset!r}{side} is like is not known here{why}; give "
            f"{' and '.join(missing)}"
        )

    @cached_property
    def data(self) -> Dataset | None:
        """The dataset in its own order. None: it is not here."""
        if self.source.folder and self.folder is None:
            self.absent = "its images are not here; --data-dir names their folder"
            return None
        wanted = self.stated.num_classes or self.stated.hints.num_classes
        official = self.source.num_classes
        # Of more classes than there usually are, as many as the network has. Else all, since an
        # order may begin with any of them.
        more = wanted if wanted is not None and official is not None and wanted > official else None
        try:
            return load_dataset(
                self.stated.dataset,
                data_dir=self.stated.data_dir,
                image_size=self.image_size[0],
                num_classes=more,
                sources=self.sources,
            )
        except KdbenchError as error:
            self.absent = str(error)
            return None

    def reading(self) -> Reading:
        """What is to be recorded. Loads the dataset if it is here.

        Raises:
            ConfigError: the order of classes does not fit the dataset.
        """
        (count, counted), (_, side) = self.num_classes, self.image_size
        data, folder = self.data, self.folder
        names, order, basis = self._names(count)
        mean, std, normalized = self._normalization()
        own = None if data is None else data.class_names[:count]
        return Reading(
            folder=str(folder) if folder is not None and folder.exists() else None,
            class_names=names,
            class_order=order,
            reordered=names != own if data is not None else basis != "assumed",
            dataset_classes=self.whole,
            mean=mean,
            std=std,
            basis={
                "image_size": side,
                "num_classes": counted,
                "class_names": basis,
                "normalization": normalized,
            },
        )

    def _names(self, count: int) -> tuple[tuple[str, ...] | None, ClassOrder, Basis]:
        """(the classes by index, how their order was stated, who says so)."""
        data, word = self.data, self.stated.class_order
        own = None if data is None else data.class_names
        if own is not None and len(own) < count:
            raise ConfigError(
                f"the network has {counted(count, 'class')}, {self.stated.dataset} has "
                f"{len(own)}; give --num-classes, or name another --dataset"
            )
        if self.order is not None:
            if own is not None:
                order = spelt_as(self.order, own)
                check_names(order, own, count)
                return order[:count], "file", "given"
            if len(self.order) < count:
                raise ConfigError(
                    f"--class-order has {counted(len(self.order), 'name')}, the network has "
                    f"{counted(count, 'class')}"
                )
            return self.order[:count], "file", "given"
        if word is not None:
            if own is None:
                raise ConfigError(
                    f"--class-order {word}: the names of the classes are not known here "
                    f"({self.absent}); name a file with one class name a line"
                )
            return ORDERS[word](own)[:count], "text" if word == "text" else "number", "given"
        labels = self.stated.hints.labels
        if own is not None and len(labels) == count and set(labels) == set(own):
            return labels, "file", "hub"
        return (None if own is None else own[:count]), "own", "assumed"

    def _normalization(self) -> tuple[Channels | None, Channels | None, Basis]:
        stated, hints = self.stated, self.stated.hints
        if stated.mean is not None:
            return stated.mean, stated.std, "given"
        if hints.mean is not None:
            return hints.mean, hints.std, "hub"
        return (
            (None, None, "assumed")
            if self.data is None
            else (self.data.mean, self.data.std, "assumed")
        )


def _stated_order(word: str | None) -> tuple[str, ...] | None:
    """The order that a file says. None: there is no file."""
    return None if word is None or word in ORDERS else read_order(Path(word).expanduser())


def _side(size: tuple[int, Any]) -> str:
    return f"{size[0]}x{size[0]}"
