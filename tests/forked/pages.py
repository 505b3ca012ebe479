"""Large pages for a process that forks often.

A fork copies a table with a line for each page of the process. With torch imported these are a
hundred thousand small pages, and the copy takes 30 ms of a processor. Most of them fit into a few
large pages. Then it takes 10 ms. What a process reads and writes stays the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator

#: Bytes of a large page.
_LARGE = 2 << 20
#: Of madvise(2), since Linux 6.1: join what is there, now.
_COLLAPSE = 25


def settle() -> None:
    """Prepare this process to be forked often: call it after the imports, before the first fork."""
    # A fork that collects garbage would copy all that was imported.
    gc.collect()
    gc.freeze()
    join()


def join() -> None:
    """Let this process's own memory be in large pages, where the kernel can do it."""
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, end in _own():
        first = -(-begin // _LARGE) * _LARGE
        if (size := (end - first) // _LARGE * _LARGE) > 0:
            # The kernel may refuse: it is old, or has no large page left. Then all is as it was.
            madvise(first, size, _COLLAPSE)


def _own() -> list[tuple[int, int]]:
    """Where memory lies that may be written and is no file's."""
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as file:
        return list(parse(file))
    return []


def parse(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(begin, end) of each part of /proc/PID/maps that is a process's own. A stack is left out."""
    for line in lines:
        place, rights, _, _, inode, *name = line.split(None, 5)
        if rights.startswith("rw-p") and inode == "0" and not "".join(name).startswith("[st"):
            begin, end = place.split("-")
            yield int(begin, 16), int(end, 16)
