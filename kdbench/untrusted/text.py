"""Foreign text, made harmless: names of folders and files, messages of plugins, anything that a
stranger wrote."""

from __future__ import annotations

from typing import Any


def strip_control(value: Any) -> str:
    """The text on one line: whatever a terminal could take for a command becomes a space."""
    return "".join(c if c.isprintable() else " " for c in str(value))
