"""Namespaces: a process sees only a few folders, and no other process, network or shared memory.

They are made in two steps. The supervisor calls :func:`enter`. From then on its children live in
the new namespaces. Its first child calls :func:`build`, and becomes their first process.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

from kdbench.untrusted.wall.kernel import checked, libc
from kdbench.untrusted.wall.root import Mounts, new_root

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
#: The kernel takes no smaller number of processes.
_FEWEST = 301


def enter() -> None:
    """Let the children of this process live in new user and PID namespaces.

    Root keeps its users and groups in them, to read files of any owner. Anybody else is alone.

    Raises:
        OSError: the kernel does not give them.
    """
    ids = [_ids(kind) for kind in ("uid", "gid")] if os.geteuid() == 0 else []
    user, group, pid = os.geteuid(), os.getegid(), os.getpid()
    unshared_read, unshared_write = os.pipe()
    # Only a process outside has the right to write the map of several users.
    writer = os.fork() if ids else 0
    if ids and not writer:
        code = 1
        try:
            os.close(unshared_write)
            os.read(unshared_read, 1)
            for kind, table in zip(("uid", "gid"), ids, strict=True):
                _write(f"/proc/{pid}/{kind}_map", table)
            code = 0
        finally:
            os._exit(code)
    os.close(unshared_read)
    try:
        checked("namespaces", libc().unshare(_NEWUSER | _NEWPID))
    finally:
        os.close(unshared_write)
        mapped = bool(writer) and os.waitpid(writer, 0)[1] == 0
    if not mapped:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")


def build(mounts: Mounts, *, network: bool, processes: int | None) -> None:
    """Leave the machine's files, network and shared memory. Call it as the first process.

    Raises:
        OSError: the kernel does not give them.
    """
    checked("namespaces", libc().unshare(_NEWNS | _NEWIPC | (0 if network else _NEWNET)))
    new_root(mounts, lambda: _forbid_more(processes))


def available() -> bool:
    """Whether the kernel gives namespaces here. It tries them in a child.

    Call it while there is one thread only.
    """

    def attempt() -> None:
        enter()
        if not _works(lambda: build(Mounts(), network=False, processes=None)):
            raise OSError

    return sys.platform.startswith("linux") and _works(attempt)


def _works(action: Callable[[], None]) -> bool:
    """Whether an action raises nothing in a child of this process."""
    child = os.fork()
    if not child:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _ids(kind: str) -> str:
    """Every user or group of this namespace, each as itself."""
    with open(f"/proc/self/{kind}_map") as file:
        rows = [line.split() for line in file]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in rows)


def _forbid_more(processes: int | None) -> None:
    """No further namespaces, and so many processes at one time. It needs the new /proc."""
    limits = {f"/proc/sys/user/max_{kind}_namespaces": 0 for kind in ("user", "mnt", "net", "pid")}
    # Before this version the number holds for the whole machine, and root may change it.
    if processes is not None and _version() >= (6, 14):
        limits["/proc/sys/kernel/pid_max"] = max(processes, _FEWEST)
    for path, value in limits.items():
        # A filter forbids further namespaces, too. An older kernel has one such number for all.
        try:
            _write(path, str(value))
        except OSError:
            continue


def _write(path: str, text: str) -> None:
    # In one call, which these files demand.
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
