"""Who has the lock of a stage, as far as the kernel says it."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOCKS = Path("/proc/locks")
#: ``1: FLOCK  ADVISORY  WRITE 4711 fe:00:5541161 0 EOF``: the process, and the file.
_LINE = re.compile(
    r"\d+: FLOCK +\S+ +WRITE +(?P<pid>\d+) +"
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<file>\d+) "
)


def holder(path: Path, locks: Path = _LOCKS) -> int | None:
    """The process that holds a file's lock. None: nobody does, or the kernel does not say.

    Args:
        locks: the kernel's list.
    """
    try:
        facts, lines = path.stat(), locks.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    place = os.major(facts.st_dev), os.minor(facts.st_dev), facts.st_ino
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        numbers = int(match["major"], 16), int(match["minor"], 16), int(match["file"])
        # A process of another namespace has the number 0.
        if numbers == place and int(match["pid"]):
            return int(match["pid"])
    return None
