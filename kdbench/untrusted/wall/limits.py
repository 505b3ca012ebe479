"""Limits of a process and of whatever it starts: memory, time, files, processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def limit(
    memory_bytes: int | None = None,
    cpu_s: int | None = None,
    file_bytes: int | None = None,
    processes: int | None = None,
    *,
    address_space: bool = False,
) -> None:
    """Limit this process and whatever it starts. Each process has the limits for itself.

    A lower limit that the process already has stays. The process writes no core dump from now on.

    Args:
        memory_bytes: private memory, in bytes. Beyond it an allocation fails: ``MemoryError``, or
            ``RuntimeError`` in torch. Importing torch takes about 0.8 GB of it, and touches a few
            hundred MB.
        cpu_s: seconds of processor time over all threads, from the start of the process. Beyond it
            the process is killed.
        file_bytes: the largest file that can be written, in bytes. Beyond it a write fails
            (``OSError``).
        processes: most processes and threads of the user at one time. Without a user namespace of
            its own all processes of the user count, and root has no such limit.
        address_space: count shared memory and mapped files, too. What is mapped now and not
            resident stays allowed on top. Use it only after the libraries are imported: torch maps
            3 GB that it hardly touches. Never use it with a GPU, whose driver reserves far more.
    """
    import resource

    def lower(which: int, value: int) -> None:
        known = resource.getrlimit(which)[1]
        value = value if known == resource.RLIM_INFINITY else min(value, known)
        resource.setrlimit(which, (value, value))

    lower(resource.RLIMIT_CORE, 0)
    if processes is not None:
        lower(resource.RLIMIT_NPROC, processes)
    if memory_bytes is not None:
        lower(resource.RLIMIT_DATA, memory_bytes)
        if address_space:
            # Outside Linux there is no /proc to ask: everything mapped counts, which is stricter.
            lower(
                resource.RLIMIT_AS,
                memory_bytes + (_mapped_but_idle() if sys.platform.startswith("linux") else 0),
            )
    if cpu_s is not None:
        lower(resource.RLIMIT_CPU, cpu_s)
    if file_bytes is not None:
        lower(resource.RLIMIT_FSIZE, file_bytes)


def _mapped_but_idle() -> int:
    pages = [int(value) for value in Path("/proc/self/statm").read_text("ascii").split()[:2]]
    return (pages[0] - pages[1]) * os.sysconf("SC_PAGE_SIZE")
