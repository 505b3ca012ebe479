"""What a hostile file is, and how the modules of this package list theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Writes the hostile file to the first path. A payload that runs creates the second, the canary.
Build = Callable[[Path, Path], None]

SAFE_READER = "weights-only reader refuses it"


@dataclass(frozen=True)
class Hostile:
    """A file that must not be imported."""

    build: Build
    """Writes the file."""
    why: str
    """Part of the message that refuses it."""
    suffix: str = ".pth"
    """Ending of the file's name."""
    runs: bool = False
    """Whether its payload works when the file is unpickled."""


class Family(dict[str, Hostile]):
    """Hostile files by name."""

    def include(self, files: Family) -> None:
        """Take in all files of another family."""
        assert not self.keys() & files.keys(), "a name stands for two hostile files"
        self.update(files)

    def add(
        self, name: str, why: str, suffix: str = ".pth", *, runs: bool = False
    ) -> Callable[[Build], Build]:
        """A decorator for the function that builds the file."""

        def keep(build: Build) -> Build:
            self.include(Family({name: Hostile(build, why, suffix, runs)}))
            return build

        return keep
