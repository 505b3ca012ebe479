"""The descendants of a process, and the memory that they take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

#: Seconds for which one look at the machine's processes serves everybody.
_FRESH_S = 0.05


@dataclass
class Processes:
    """The processes of the machine at one moment. Empty where /proc is missing."""

    #: When they were looked at, of the monotonic clock.
    at: float = -1e9
    #: The children of each process.
    children: dict[int, list[int]] = field(default_factory=dict)
    #: The resident memory of each process, MiB.
    resident_mb: dict[int, float] = field(default_factory=dict)

    def below(self, pid: int) -> Iterator[int]:
        """Every descendant of a process."""
        waiting = list(self.children.get(pid, []))
        while waiting:
            yield (child := waiting.pop())
            waiting += self.children.get(child, [])


_latest = Processes()


def processes(fresh_s: float = _FRESH_S) -> Processes:
    """The processes of the machine, looked at no longer than ``fresh_s`` seconds ago."""
    global _latest
    if time.monotonic() - _latest.at > fresh_s:
        _latest = _look()
    return _latest


def _look() -> Processes:
    seen, page_mb = Processes(time.monotonic()), os.sysconf("SC_PAGE_SIZE") / 2**20
    with suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                # It may end while it is looked at.
                with suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{entry}/stat", "rb") as file:
                        # The name, in brackets, may hold anything.
                        values = file.read().rpartition(b")")[2].split()
                    pid, parent, pages = int(entry), int(values[1]), int(values[21])
                    seen.children.setdefault(parent, []).append(pid)
                    seen.resident_mb[pid] = pages * page_mb
    return seen
