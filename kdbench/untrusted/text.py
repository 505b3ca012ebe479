"""Making foreign text harmless: names of files, messages of plugins, whatever a stranger wrote."""

from __future__ import annotations

from typing import Any


def strip_control(value: Any) -> str:
    """The text on one line, with a space for each character that a terminal could obey."""
    return "".join(c if c.isprintable() else " " for c in str(value))
