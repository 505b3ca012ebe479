"""The locks of stages: whether they work here, and who has one, as far as the kernel says it."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import filelock

_LOCKS = Path("/proc/locks")
#: ``1: FLOCK  ADVISORY  WRITE 4711 fe:00:5541161 0 EOF``: the process, and the file.
_LINE = re.compile(
    r"\d+: FLOCK +\S+ +WRITE +(?P<pid>\d+) +"
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<file>\d+) "
)


def lock_warning(folder: Path) -> str:
    """What a user should know of locks in a folder. Empty if a second one is refused.

    On some file systems of clusters everybody gets a lock. This is seen from one process. Locks
    that hold on each machine alone are not.

    Raises:
        OSError: the file system has no locks.
    """
    path = folder / f"{secrets.token_hex(8)}.trial"
    first, second = filelock.FileLock(path), filelock.FileLock(path)
    try:
        with first.acquire(blocking=False):
            try:
                with second.acquire(blocking=False):
                    return (
                        "Locks do not work in the store's file system; two runs that share it may "
                        "compute a stage twice. No number is wrong then."
                    )
            except filelock.Timeout:
                return ""
    except NotImplementedError as error:
        raise OSError(str(error)) from error
    finally:
        path.unlink(missing_ok=True)


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
