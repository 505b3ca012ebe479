"""How much a test does: a little in the suite, everything in ``make soak``."""

from __future__ import annotations

import os

SOAK = os.environ.get("KDBENCH_SOAK") == "1"


def size(suite: int, soak: int) -> int:
    """The number for the suite, or the one of ``make soak``."""
    return soak if SOAK else suite
