"""The descendants of a process, and the memory that they take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
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
    seen = Processes(time.monotonic())
    with suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                # It may end while it is looked at.
                with suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{entry}/stat", "rb") as file:
                        # The name, in brackets, may hold anything.
                        values = file.read().rpartition(b")")[2].split()
                    seen.children.setdefault(int(values[1]), []).append(int(entry))
    return seen


def processor_s(pids: Iterable[int]) -> float | None:
    """Seconds of processor time that processes, and children that they waited for, have used.

    None where /proc is missing, so that nobody knows.
    """
    if not os.path.exists("/proc/self/stat"):
        return None
    ticks = 0
    for pid in pids:
        # It may end while it is looked at.
        with suppress(OSError, ValueError):
            with open(f"/proc/{pid}/stat", "rb") as file:
                values = file.read().rpartition(b")")[2].split()
            ticks += sum(map(int, values[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes together, MiB.

    Pages of files, mostly libraries, are the same for all, so those of one process count.
    """
    own_kb, files_kb = 0, 0
    for pid in pids:
        # It may end while it is looked at.
        with suppress(OSError, ValueError):
            kb = _resident_kb(pid)
            own_kb += kb.get("RssAnon", 0) + kb.get("RssShmem", 0)
            files_kb = max(files_kb, kb.get("RssFile", 0))
    return (own_kb + files_kb) / 2**10


def _resident_kb(pid: int) -> dict[str, int]:
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = file.read().decode(errors="replace").splitlines()
    parts = (line.partition(":") for line in lines if line.startswith("Rss"))
    return {name: int(text.split()[0]) for name, _, text in parts}
