"""A dataset by name: how it is loaded, and what is known of it before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from pydantic.dataclasses import dataclass

from kdbench.data.base import Dataset
from kdbench.data.common import DatasetRequest

#: Request -> dataset.
Loader = Callable[[DatasetRequest], Dataset]


@dataclass(frozen=True)
class DatasetSource:
    """How to load a dataset. kdbench's own datasets and those of plugins are all of this class.

    The numbers are those of the whole, official dataset. None: not known before it is loaded.
    """

    load: Loader
    """Loads it."""
    about: str = ""
    """One line for ``kdbench list datasets``."""
    folder: str = ""
    """What its folder holds, as a sentence for messages. Empty: it reads no folder.

    If it is not empty, kdbench wants ``--data-dir`` and checks that the folder exists.
    """
    downloadable: bool = False
    """``--download`` can fetch it into the folder."""
    takes_path: bool = False
    """``NAME:PATH`` says where it lies. PATH may be a folder or an archive."""
    num_classes: int | None = None
    """Number of classes."""
    image_size: int | None = None
    """Pixels a side, unless the request says otherwise."""
    train_size: int | None = None
    """Number of training images."""
    test_size: int | None = None
    """Number of test images."""
    known_failures: Mapping[str, str] = field(default_factory=dict)
    """By check of :mod:`kdbench.testing`: why it cannot pass it. Every row of results shows the
    reason."""

    def options(self) -> list[str]:
        """The options that say where it is."""
        named = {
            "--data-dir": bool(self.folder) and not self.takes_path,
            "--download": self.downloadable,
        }
        return [option for option, helps in named.items() if helps]
