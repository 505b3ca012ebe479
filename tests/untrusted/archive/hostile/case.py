"""What a hostile archive is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """An archive that must not be unpacked."""

    name: str
    """Name of the case."""
    why: str
    """What the refusal must say: a regular expression."""
    content: bytes | Callable[[Path], bytes] = field(repr=False)
    """The archive, or a function that makes it for the path of the folder outside."""
    escapes: bool = False
    """Whether the naive unpacker writes outside its folder."""

    def make(self, outside: Path) -> bytes:
        """The archive's bytes. ``outside`` is the folder that it may try to write to."""
        return self.content(outside) if callable(self.content) else self.content
