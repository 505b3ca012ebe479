"""A network by name: how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from pydantic.dataclasses import dataclass

from kdbench.models.base import FeatureModel

#: (number of classes, side of the images in pixels or None) -> a network with fresh weights.
ModelMaker = Callable[[int, int | None], FeatureModel]


@dataclass(frozen=True)
class ModelSource:
    """How to build a network. kdbench's own networks and those of plugins are all of this class."""

    make: ModelMaker
    """Builds it with fresh weights from torch's global random state."""
    about: str = ""
    """One line for ``kdbench list models``."""
    known_failures: Mapping[str, str] = field(default_factory=dict)
    """By check of :mod:`kdbench.testing`: why it cannot pass it. Every row of results shows the
    reason."""
