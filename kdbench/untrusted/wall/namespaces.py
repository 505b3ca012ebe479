"""Namespaces: a process sees only a few folders, and no other process, network or shared memory.

They are made in two steps. The supervisor calls :meth:`Namespaces.enter`. From then on its children
live in the new namespaces. Its first child calls :func:`build`, and becomes their first process.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kdbench.untrusted.wall.kernel import checked, libc
from kdbench.untrusted.wall.paths import device_paths
from kdbench.untrusted.wall.root import Mounts, new_root

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
#: Seconds to wait for a map of users.
_MAPPING_S = 2.0
#: The kernel takes no smaller number of processes.
_FEWEST = 301


class Namespaces:
    """Makes namespaces for the children of this process and of its forks.

    It makes itself while this process is small: a process of its own writes the maps of root's
    users. Call :meth:`close` at the end.
    """

    def __init__(self) -> None:
        #: The process that writes the maps of users; None without one.
        self.mapper: int | None = None
        self._pipe: int | None = None
        if sys.platform.startswith("linux") and os.geteuid() == 0:
            self._start_mapper()
        #: Whether the kernel gives them.
        self.available = sys.platform.startswith("linux") and _works(self._attempt)

    def enter(self) -> None:
        """Let the children of this process live in new user and PID namespaces.

        Root keeps its users and groups in them, to read files of any owner. Anybody else is alone.

        Raises:
            OSError: the kernel does not give them.
        """
        user, group = os.geteuid(), os.getegid()
        checked("namespaces", libc().unshare(_NEWUSER | _NEWPID))
        if not self._map_users():
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
        self.close()

    def handles(self) -> list[int]:
        """Its descriptors."""
        return [] if self._pipe is None else [self._pipe]

    def close(self) -> None:
        """End what belongs to it. Each fork closes its own."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _attempt(self) -> None:
        self.enter()
        # A GPU's devices need more of the kernel than the rest.
        mounts = Mounts(devices=tuple(device_paths()))
        if not _works(lambda: build(mounts, network=False, processes=None)):
            raise OSError

    def _start_mapper(self) -> None:
        read, write = os.pipe()
        self.mapper = os.fork()
        if not self.mapper:
            os.close(write)
            _map_for_others(read)
        os.close(read)
        self._pipe = write

    def _map_users(self) -> bool:
        """Whether every user is known in the new namespace. Only another process may write that."""
        if self._pipe is None:
            return False
        os.write(self._pipe, struct.pack("=i", os.getpid()))
        deadline = time.monotonic() + _MAPPING_S
        while time.monotonic() < deadline:
            # The groups come last.
            if Path("/proc/self/gid_map").read_text("ascii"):
                return True
            time.sleep(0.0005)
        return False


def _map_for_others(read: int) -> NoReturn:
    try:
        rows = {kind: _ids(kind) for kind in ("uid", "gid")}
        while pid := os.read(read, 4):
            # A container's root may lack the right. The process then maps its own user only.
            with contextlib.suppress(OSError):
                for kind, text in rows.items():
                    _write(f"/proc/{struct.unpack('=i', pid)[0]}/{kind}_map", text)
    finally:
        os._exit(0)


def build(mounts: Mounts, *, network: bool, processes: int | None) -> None:
    """Leave the machine's files, network and shared memory. Call it as the first process.

    Raises:
        OSError: the kernel does not give them.
    """
    checked("namespaces", libc().unshare(_NEWNS | _NEWIPC | (0 if network else _NEWNET)))
    new_root(mounts, lambda: _forbid_more(processes))


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
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
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
