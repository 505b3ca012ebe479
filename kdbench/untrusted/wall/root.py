"""A new root folder, with nothing below it but what a process may see, under the usual paths."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kdbench.untrusted.wall import kernel
from kdbench.untrusted.wall.calls import number

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_PLAIN = _NO_SUID | _NO_DEVICES | _NO_PROGRAMS
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 1 << 14, 1 << 18, 2
#: Where the new root is made before it becomes the root. Every Linux has this folder.
_STAGE = "/dev"
#: What root can change of the machine there, even without capabilities.
_PROC_OF_THE_MACHINE = ("acpi", "bus", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")
#: A process has its own. What it may see below the machine's is put into it.
_SHARED = "/dev/shm"
_LINKS = {"/dev/fd": "/proc/self/fd", "/dev/stdout": "/proc/self/fd/1"}


@dataclass(frozen=True)
class Mounts:
    """What a process may see."""

    #: Files and folders that it may read.
    read: tuple[Path, ...] = ()
    #: Files and folders that it may write.
    write: tuple[Path, ...] = ()
    #: Device nodes.
    devices: tuple[Path, ...] = ()
    #: Most MiB in /dev/shm; None is half of the machine's memory.
    shm_mb: int | None = None
    #: Whether to try a /proc of the process's own namespace. A container may refuse it.
    own_proc: bool = True


@dataclass(frozen=True)
class _Part:
    """A piece of the old tree, cut off, that goes to a path of the new one."""

    path: str
    handle: int
    folder: bool


def new_root(mounts: Mounts, prepare: Callable[[], None]) -> None:
    """Make and enter the new root. The process must have a mount namespace of its own.

    Args:
        mounts: what it shall hold. What does not exist, or cannot be reached, is left out.
        prepare: called once the new /proc is there and may be written.

    Raises:
        OSError: the kernel refuses a step.
    """
    libc = kernel.libc()
    private = libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    kernel.checked("mount", private)
    # All of them while the old root is there: the stage will hide parts of it, and the kernel gives
    # a new /proc only to who sees one already.
    parts, proc = [*_parts(mounts)], _proc(mounts.own_proc)
    size = {} if mounts.shm_mb is None else {"size": f"{mounts.shm_mb}m"}
    shared = _new("tmpfs", _PLAIN, mode="1777", **size)
    _put(_new("tmpfs", 0, size="4m", mode="755"), _STAGE)
    os.chdir(_STAGE)
    pivot = number("pivot_root")
    if pivot is None:
        raise OSError(errno.ENOSYS, "pivot_root has no known number on this machine")
    kernel.call("pivot_root", pivot, b".", b".")
    # The old root now lies over the new one.
    kernel.checked("umount2", libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    os.mkdir("/proc")
    _put(proc, "/proc")
    within = [part for part in parts if Path(part.path).is_relative_to(_SHARED)]
    for part in parts:
        if part not in within:
            _place(part)
    for path, target in _LINKS.items():
        with contextlib.suppress(FileExistsError):
            os.symlink(target, path)
    os.makedirs(_SHARED, exist_ok=True)
    _put(shared, _SHARED)
    # Not before, or the new one would hide them.
    for part in within:
        _place(part)
    # A GPU's driver names its threads, which are files in /proc. So there only the machine's own
    # are read-only. They are cut off before no more namespaces may be made: newer kernels count a
    # tree that is cut off as one.
    names = _PROC_OF_THE_MACHINE if mounts.devices else ()
    machine = [_cut(Path("/proc", name), _READ_ONLY | _PLAIN) for name in names]
    prepare()
    _read_only("/")
    if not mounts.devices:
        _read_only("/proc")
    for piece in filter(None, machine):
        _put(piece.handle, piece.path)


def _proc(own: bool) -> int:
    """A /proc, not yet anywhere: of the own namespace, or the machine's where that is refused."""
    with contextlib.suppress(PermissionError):
        if own:
            return _new("proc", _PLAIN)
    old = _cut(Path("/proc"), _PLAIN)
    if old is None:
        raise PermissionError("there is no /proc")
    return old.handle


def _parts(mounts: Mounts) -> Iterable[_Part]:
    """The pieces, outer folders first."""
    rights: dict[Path, int] = {}
    nodes = [Path("/dev", name) for name in ("null", "zero", "full", "random", "urandom")]
    kinds = (
        (mounts.read, _READ_ONLY | _NO_SUID | _NO_DEVICES),
        (mounts.write, _NO_SUID | _NO_DEVICES),
        # Devices are written all the same. Only their owner and mode are kept.
        ((*nodes, *mounts.devices), _READ_ONLY | _NO_SUID),
    )
    for paths, flags in kinds:
        for path in paths:
            # A program may follow the links of a path itself, so both must be there.
            for place in {Path(os.path.abspath(path)), Path(os.path.realpath(path))}:
                if not place.is_relative_to("/proc") and place != Path(_SHARED):
                    rights[place] = flags
    cut: dict[Path, int] = {}
    for path in sorted(rights, key=lambda path: (len(path.parts), path)):
        inside = next((cut[parent] for parent in path.parents if parent in cut), None)
        if inside != rights[path] and (part := _cut(path, rights[path])) is not None:
            cut[path] = rights[path]
            yield part


def _cut(path: Path, flags: int) -> _Part | None:
    try:
        handle = kernel.call(
            f"mount of {path}",
            kernel.OPEN_TREE,
            _AT_FDCWD,
            os.fsencode(path),
            _OPEN_TREE_CLONE | _CLOEXEC | _AT_RECURSIVE,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    _set(handle, flags)
    return _Part(str(path), handle, stat.S_ISDIR(os.fstat(handle).st_mode))


def _place(part: _Part) -> None:
    if part.folder:
        os.makedirs(part.path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(part.path), exist_ok=True)
        if not os.path.exists(part.path):
            os.close(os.open(part.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _put(part.handle, part.path)


def _put(handle: int, path: str) -> None:
    kernel.call(
        f"mount at {path}",
        kernel.MOVE_MOUNT,
        handle,
        b"",
        _AT_FDCWD,
        os.fsencode(path),
        _MOVE_MOUNT_F_EMPTY_PATH,
    )
    os.close(handle)


def _new(kind: str, flags: int, **options: str) -> int:
    """A new file system, not yet anywhere."""
    handle = kernel.call(kind, kernel.FSOPEN, kind.encode(), 1)
    try:
        for name, value in options.items():
            text = (name.encode(), value.encode())
            kernel.call(kind, kernel.FSCONFIG, handle, _SET_STRING, *text, 0)
        kernel.call(kind, kernel.FSCONFIG, handle, _CREATE, None, None, 0)
        return kernel.call(kind, kernel.FSMOUNT, handle, 1, flags)
    finally:
        os.close(handle)


def _set(handle: int, flags: int) -> None:
    attributes = struct.pack("=4Q", flags, 0, 0, 0)
    kernel.call(
        "mount_setattr",
        kernel.MOUNT_SETATTR,
        handle,
        b"",
        _AT_EMPTY_PATH | _AT_RECURSIVE,
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def _read_only(path: str) -> None:
    """Only the file system at the path itself, not those below it."""
    attributes = struct.pack("=4Q", _READ_ONLY, 0, 0, 0)
    kernel.call(
        "mount_setattr",
        kernel.MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(path),
        0,
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
