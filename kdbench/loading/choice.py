"""Which plugins are wanted. Imports nothing that takes time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from kdbench.errors import UsageError, unknown

_VARIABLE = "KDBENCH_LOAD_PLUGINS"


@dataclass(frozen=True)
class PluginChoice:
    """Which plugins are wanted."""

    only: frozenset[str] | None = None
    """Names of entry points or distributions. None: every plugin."""
    without: frozenset[str] = frozenset()
    """Names of entry points that are not wanted."""
    files: tuple[Path, ...] = ()
    """Files that are plugins by themselves."""

    @classmethod
    def of(cls, without: Iterable[str], files: Iterable[Path]) -> PluginChoice:
        """The choice of whoever names these, and of $KDBENCH_LOAD_PLUGINS."""
        names = os.environ.get(_VARIABLE)
        only = None if names is None else frozenset(names.replace(",", " ").split())
        return cls(only, frozenset(without), tuple(files))

    def check(self, points: Iterable[EntryPoint]) -> None:
        """Raise UsageError for the name of a plugin that does not exist.

        Such a name would have no effect, and the plugin that was meant would still be loaded.
        """
        points = list(points)
        names = {point.name for point in points}
        for name in sorted(self.without - names):
            raise UsageError(unknown("plugin", name, names, "run `kdbench plugins`"))
        for name in sorted(
            (self.only or frozenset()) - names - {owner_of(point) for point in points}
        ):
            raise UsageError(
                "KDBENCH_LOAD_PLUGINS: "
                f"{unknown('plugin', name, names, 'a distribution will do as well')}"
            )

    def wants(self, point: EntryPoint) -> bool:
        """Whether the plugin of an entry point is wanted."""
        chosen = self.only is None or point.name in self.only or owner_of(point) in self.only
        return chosen and point.name not in self.without


def owner_of(point: EntryPoint) -> str:
    """The distribution that an entry point is of."""
    return point.dist.name if point.dist is not None else "unknown distribution"
