"""A process gives up files and the network with Landlock, the Linux kernel's unprivileged sandbox.

See https://docs.kernel.org/userspace-api/landlock.html. It is called through ctypes.

No version of Landlock that is handled here stops the following:

- ``stat`` of any file, and ``chmod`` of files that the process's user owns;
- UDP, multipath TCP, listening, and connecting to a socket that has a path;
- limits and priorities of other processes, shared memory by a key, keys of the kernel;
- descriptors that were open before.

So it is one layer of the wall of ``build.py``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from kdbench.untrusted.wall import kernel

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NEWEST = 7
"""The newest ABI that is handled. From a newer kernel no more than its rights are asked for."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << i for i in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << i for i in range(6, 13)
)
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Written files may not be executed. Device nodes may not be made, since root could read the disk by
# means of one.
_WRITE = (
    _READ_FILE
    | _READ_DIR
    | _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SOCK
    | _MAKE_FIFO
)
_WRITE |= _MAKE_SYM | _REFER | _TRUNCATE | _IOCTL_DEV
_UNLISTED = _READ_FILE | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
# The kernel refuses a rule for a file that names any other right.
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def confine(
    read: Iterable[Path],
    write: Iterable[Path],
    unlisted: Iterable[Path] = (),
    listed: Iterable[Path] = (),
    *,
    network: bool = False,
) -> str:
    """Restrict this process, and all that it starts, to the files named. This cannot be undone.

    TCP and signals to other processes are forbidden, too. Root loses the capabilities that lead
    around the restriction, such as loading kernel modules and raw sockets. It keeps the one to
    reach files of any owner, within the files named.

    Call it while there is one thread only, so before numpy or torch is imported. They start
    threads, and these would stay unrestricted. Libraries expect a folder for temporary files, so
    let ``TMPDIR`` name one that may be written. Paths that cannot be reached are skipped.

    Args:
        read: files and folders that may be read, listed and executed, with all below them.
        write: files and folders in which anything may be read, made, changed and removed. No file
            in them may be executed by its path or made a device node. (An interpreter or a loader
            may still be given one, and so may memory.) A device that is named here may be
            controlled (``ioctl``). /dev/null is always one of them.
        unlisted: folders in which files may be made, read, changed and removed, but not listed. A
            process reaches there only what it knows by its name.
        network: leave TCP alone.

    Returns:
        How it is confined: ``landlock N`` with N the ABI used (1 to 7), or ``none`` where the
        kernel has no Landlock. Truncating is covered from ABI 3 on, binding and connecting TCP
        sockets from 4, ``ioctl`` of devices from 5, abstract sockets and signals from 6.

    Raises:
        RuntimeError: several threads are running.
        OSError: the kernel has Landlock but refused a step.
    """
    if (abi := landlock_abi()) < 1:
        return "none"
    if _threads() != 1:
        raise RuntimeError(
            "confine() restricts the calling thread only, and there are others; call it before "
            "they start"
        )
    handled = _file_rights(abi)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", 0 if network else _BIND_AND_CONNECT_TCP)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    size = ctypes.c_size_t(len(attributes))
    ruleset = kernel.call("Landlock", kernel.LANDLOCK_CREATE_RULESET, attributes, size, 0)
    try:
        # subprocess.DEVNULL opens /dev/null for reading and writing, even as an input.
        writes = (Path(os.devnull), *write)
        all_rights = (_READ, _WRITE, _UNLISTED, _READ_DIR)
        for paths, rights in zip((read, writes, unlisted, listed), all_rights, strict=True):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        # The kernel demands it: a set-uid program must not get out of the restriction.
        kernel.no_new_privileges()
        kernel.call("Landlock", kernel.LANDLOCK_RESTRICT_SELF, ruleset, 0)
        kernel.drop_capabilities()
    finally:
        os.close(ruleset)
    return f"landlock {abi}"


def landlock_abi() -> int:
    """The version of Landlock that is used here, at most 7. Less than 1 without Landlock."""
    if not sys.platform.startswith("linux"):
        return 0
    # With no ruleset, size 0 and this flag the call returns the ABI. It is negative without
    # Landlock, and where a container forbids the call.
    answer = kernel.libc().syscall(
        kernel.LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION
    )
    return min(int(answer), _NEWEST)


def _file_rights(abi: int) -> int:
    """Every right about files that an ABI knows. Landlock forbids those that no rule allows."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    return rights


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        # O_PATH opens a place without reading it, so it needs no right to the file.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, handle)
        kernel.call("Landlock", kernel.LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(handle)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
