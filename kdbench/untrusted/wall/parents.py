"""What the kernel does when a parent or a child ends. Linux only; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, in whatever way."""
    _prctl(_PR_SET_PDEATHSIG, by)


def adopt_orphans() -> None:
    """Become the parent of each descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide(hidden: bool = True) -> None:
    """Keep this process's memory and descriptors from other processes of its user, or stop that."""
    _prctl(_PR_SET_DUMPABLE, int(not hidden))


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, *(ctypes.c_ulong(part) for part in (value, 0, 0, 0)))
