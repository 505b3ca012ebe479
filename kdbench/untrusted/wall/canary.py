"""A process tries to reach what it must not reach, and tells what it reached.

Core code does so behind the wall, before anything of a plugin is imported. So a row says what the
wall really kept out, and not only what it was made of.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdbench.untrusted.wall.calls import number
from kdbench.untrusted.wall.kernel import libc

_MPTCP = 262
_IN_CREATE = 0x100
_GET_KEYRING_ID, _USER_KEYRING = 0, -4
_SHARED = Path("/dev/shm")
_KINDS = ("pid", "ipc", "user")


class Bait:
    """Things of the coordinator that no walled process may reach: files and listening sockets."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kdbench-bait-"))
        (self._folder / "file").write_text("bait")
        self._sockets = [self._listen(socket.AF_UNIX, str(self._folder / "socket"))]
        name = f"kdbench-bait-{os.getpid()}-{self._folder.name}"
        if sys.platform.startswith("linux"):
            self._sockets.append(self._listen(socket.AF_UNIX, f"\0{name}"))
        #: A file among those by which processes share memory.
        self._shared: Path | None = None
        if _SHARED.is_dir():
            self._shared = Path(tempfile.mkstemp(prefix="kdbench-bait-", dir=_SHARED)[1])
        tcp = self._listen(socket.AF_INET, ("127.0.0.1", 0))
        self._sockets.append(tcp)
        #: What the canary has to know, as JSON can hold it.
        self.told: dict[str, Any] = {
            "folder": str(self._folder),
            "abstract": name,
            "shared": self._shared.name if self._shared else "",
            "port": tcp.getsockname()[1],
            "pid": os.getpid(),
            "namespaces": namespaces(),
        }

    def close(self) -> None:
        """Take it away."""
        for listener in self._sockets:
            listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._shared is not None:
            self._shared.unlink(missing_ok=True)

    @staticmethod
    def _listen(family: int, address: Any) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(1)
        return listener


def namespaces() -> dict[str, str]:
    """The names of this process's namespaces."""
    names = {}
    for kind in _KINDS:
        with contextlib.suppress(OSError):
            names[kind] = os.readlink(f"/proc/self/ns/{kind}")
    return names


def reached(bait: Mapping[str, Any]) -> tuple[str, ...]:
    """Try everything. The names of the attempts that succeeded."""
    folder, own = Path(bait["folder"]), namespaces()
    shared = {kind for kind in _KINDS if own.get(kind) == bait["namespaces"].get(kind)}
    pid = int(bait["pid"])
    attempts: dict[str, Callable[[], object]] = {
        "stat": lambda: os.stat(folder / "file"),
        "open": lambda: (folder / "file").read_bytes(),
        "list": lambda: os.listdir(folder),
        "chmod": lambda: os.chmod(folder, 0o700),
        "rename": lambda: os.rename(folder / "file", folder / "file"),
        "inotify": lambda: _watch(folder),
        "shared files": lambda: _read_shared(bait["shared"]),
        "unix socket": lambda: _connect(socket.AF_UNIX, str(folder / "socket")),
        "abstract socket": lambda: _connect(socket.AF_UNIX, f"\0{bait['abstract']}"),
        "tcp": lambda: _connect(socket.AF_INET, ("127.0.0.1", bait["port"])),
        "mptcp": lambda: _connect(socket.AF_INET, ("127.0.0.1", bait["port"]), _MPTCP),
        "udp": lambda: _send(bait["port"]),
    }
    # The same number may be another process in a namespace of its own.
    if "pid" in shared:
        attempts["signal"] = lambda: os.kill(pid, 0)
        attempts["process limits"] = lambda: _limits_of(pid)
        attempts["processes"] = lambda: os.stat(f"/proc/{pid}")
    if "ipc" in shared:
        attempts["shared memory"] = _find_shared_memory
    if "user" in shared:
        attempts["keyring"] = _find_keyring
    return tuple(name for name, attempt in attempts.items() if _works(attempt))


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


def _read_shared(name: str) -> None:
    if not name:  # the machine has no such folder
        raise FileNotFoundError(_SHARED)
    (_SHARED / name).read_bytes()


def _connect(family: int, address: Any, protocol: int = 0) -> None:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as client:
        client.setblocking(False)
        code = client.connect_ex(address)
        # A full or slow listener is reached, too.
        if code not in (0, errno.EINPROGRESS, errno.EAGAIN):
            raise OSError(code, "refused")


def _send(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"bait", ("127.0.0.1", port))


def _limits_of(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE)


def _call(name: str, *arguments: object) -> int:
    """The answer of a system call; OSError where the machine has no such call, or refuses it."""
    which = number(name)
    if which is None or not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, name)
    answer = int(libc().syscall(which, *arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer


def _watch(folder: Path) -> None:
    handle = _call("inotify_init1", os.O_CLOEXEC)
    try:
        _call("inotify_add_watch", handle, os.fsencode(folder), _IN_CREATE)
    finally:
        os.close(handle)


def _find_keyring() -> None:
    _call("keyctl", _GET_KEYRING_ID, _USER_KEYRING, 0)


def _find_shared_memory() -> None:
    try:
        _call("shmget", 0x6B64626E, 0, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # nobody has such a segment, but one may ask
            raise
