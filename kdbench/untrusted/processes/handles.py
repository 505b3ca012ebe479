"""Descriptors that a process was born with."""

from __future__ import annotations

import os


def close_others(kept: set[int]) -> None:
    """Close every descriptor but the first three and those named."""
    start = 3
    for handle in sorted(handle for handle in kept if handle >= start):
        os.closerange(start, handle)
        start = handle + 1
    os.closerange(start, max(start, os.sysconf("SC_OPEN_MAX")))
