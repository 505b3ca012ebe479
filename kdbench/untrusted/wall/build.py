"""The whole wall of a process, in layers. Each layer is left out where the kernel lacks it.

The supervisor asks for namespaces first, since they hold for its children. The process itself then
calls :func:`build_wall`.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.untrusted.wall import kernel
from kdbench.untrusted.wall.calls import number
from kdbench.untrusted.wall.confine import confine
from kdbench.untrusted.wall.limits import limit
from kdbench.untrusted.wall.root import Mounts
from kdbench.untrusted.wall.seccomp import filter_calls

_JOIN_SESSION_KEYRING = 1
#: Single files of one folder that get a mount each.
_MOST_SINGLE = 64


@dataclass(frozen=True)
class Wall:
    """What a walled process may reach."""

    #: Files and folders that it may read, with those of the interpreter.
    read: tuple[Path, ...]
    #: Files and folders that it may write.
    write: tuple[Path, ...]
    #: Folders that it may list, to find modules in them.
    listed: tuple[Path, ...] = ()
    #: Device nodes of GPUs, and what their driver writes.
    devices: tuple[Path, ...] = ()
    #: Whether it keeps the machine's network.
    network: bool = False
    #: Most MiB in /dev/shm.
    shm_mb: int | None = None
    #: Most processes and threads at one time.
    processes: int | None = None
    #: Largest file that it may write, MiB.
    file_mb: int | None = None

    def mounts(self, *, own_proc: bool, landlock: bool) -> Mounts:
        """What it sees of the machine's files.

        Args:
            own_proc: whether to try a /proc of its own.
            landlock: whether Landlock will stand behind it, file by file.
        """
        read = gathered(self.read) if landlock else self.read
        return Mounts(read, self.write, self.devices, self.shm_mb, own_proc)


def gathered(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The same paths, with the folder in place of many single files that lie in it.

    The kernel allows 100,000 mounts, each takes half a millisecond, and a descriptor until all are
    there. Landlock still opens the single files only. It does not hide that others exist.
    """
    folders: dict[str, list[Path]] = {}
    for path in paths:
        if not path.is_dir():
            # A program may follow the links of a path itself, so both must be there.
            for place in {os.path.abspath(path), os.path.realpath(path)}:
                folders.setdefault(os.path.dirname(place), []).append(path)
    many = {folder: files for folder, files in folders.items() if len(files) > _MOST_SINGLE}
    inside = {path for files in many.values() for path in files}
    few = {path for folder, files in folders.items() if folder not in many for path in files}
    left = [path for path in paths if path not in inside or path in few]
    return (*left, *map(Path, sorted(many)))


def build_wall(wall: Wall, *, namespaces: bool, without: tuple[str, ...] = ()) -> list[str]:
    """Restrict this process, and all that it starts. This cannot be undone.

    Args:
        wall: what it may reach.
        namespaces: whether it lives in namespaces of its own.
        without: layers to leave out.

    Returns:
        The layers that the kernel gave.
    """
    layers = ["namespaces"] if namespaces else []
    _null_of_this_root()
    _leave_keyring()
    limit(
        file_bytes=None if wall.file_mb is None else wall.file_mb << 20,
        # Otherwise all processes of the user would count.
        processes=wall.processes if namespaces else None,
    )
    if "landlock" not in without:
        shared = [Path("/dev/shm")]
        write = [*wall.write, *wall.devices, *(shared if namespaces else [])]
        # Without namespaces /dev/shm is everybody's, and two processes could meet there. The
        # driver of a GPU needs it. Then the names in it are all that keeps a neighbour's memory.
        unlisted = shared if wall.devices and not namespaces else []
        how = confine(wall.read, write, unlisted, wall.listed, network=wall.network)
        layers += [how] if how != "none" else []
    if sys.platform.startswith("linux"):
        kernel.no_new_privileges()
        kernel.drop_capabilities()
    if "seccomp" not in without and filter_calls(
        namespaces=namespaces, network=wall.network, devices=bool(wall.devices)
    ):
        layers.append("seccomp")
    return layers


def _null_of_this_root() -> None:
    """Replace /dev/null of the machine. By its descriptor root could change the node itself."""
    null = os.open(os.devnull, os.O_RDWR)
    for handle in range(3):
        if stat.S_ISCHR(os.fstat(handle).st_mode):
            os.dup2(null, handle)
    os.close(null)


def _leave_keyring() -> None:
    """Start with an empty keyring for the session. The filter forbids to reach others."""
    keyctl = number("keyctl")
    if keyctl is not None and sys.platform.startswith("linux"):
        # A kernel may have no keyrings, and a container may forbid the call.
        kernel.libc().syscall(keyctl, _JOIN_SESSION_KEYRING, ctypes.c_void_p())
