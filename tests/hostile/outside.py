"""What else runs on the user's machine, and shows whether a plugin touched it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Numbers of add_key and keyctl.
KEY_CALLS = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(platform.machine())
_USER_KEYRING, _UNLINK = -4, 9
_IPC_CREAT, _IPC_RMID = 0o1000, 0
_LIBC = ctypes.CDLL(None, use_errno=True)
#: A process without capabilities, so that root who lost most of them may still disturb it.
_VICTIM = """
import ctypes, struct, sys
header = struct.pack("=Ii", 0x20080522, 0)
assert ctypes.CDLL(None).capset(header, struct.pack("=6I", *[0] * 6)) == 0
print("ready", flush=True)
sys.stdin.read()
"""


#: Asks for all that keeps a process from the rest of its machine.
_NAMESPACES = """
import ctypes
raise SystemExit(ctypes.CDLL(None).unshare(0x10000000 | 0x00020000 | 0x20000000 | 0x40000000) != 0)
"""


def namespaces() -> bool:
    """Whether this kernel gives a process of this user namespaces of its own."""
    if not sys.platform.startswith("linux"):
        return False
    return subprocess.run([sys.executable, "-I", "-c", _NAMESPACES], check=False).returncode == 0


class Listeners:
    """Servers of every kind that a process of this machine could reach, and what they heard."""

    def __init__(self, folder: Path) -> None:
        self.heard: set[str] = set()
        self.addresses: dict[str, object] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._closed = threading.Event()
        path, abstract = str(folder / "s"), f"\0{secrets.token_hex(8)}"
        self._open("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), protocol=262)
        self._open("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        self._open("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self._open("unix", socket.AF_UNIX, socket.SOCK_STREAM, path)
        self._open("abstract", socket.AF_UNIX, socket.SOCK_STREAM, abstract)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _open(self, name: str, family: int, kind: int, address: object, protocol: int = 0) -> None:
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:  # a kernel without MPTCP
            opened = socket.socket(family, kind)
        try:
            opened.bind(address)
        except OSError:  # a machine without IPv6
            opened.close()
            return
        if kind == socket.SOCK_STREAM:
            opened.listen()
        opened.setblocking(False)
        self._sockets[name] = opened
        self.addresses[name] = opened.getsockname()

    def _listen(self) -> None:
        while not self._closed.wait(0.02):
            for name, opened in self._sockets.items():
                with contextlib.suppress(BlockingIOError):
                    if opened.type == socket.SOCK_STREAM:
                        opened.accept()[0].close()
                    else:
                        opened.recv(100)
                    self.heard.add(name)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        for opened in self._sockets.values():
            opened.close()


@contextmanager
def shared_memory() -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A System V segment: (its key, reads what is in it)."""
    key = secrets.randbits(30) + 1
    number = _LIBC.shmget(key, 4096, _IPC_CREAT | 0o600)
    assert number >= 0, "no System V shared memory"
    _LIBC.shmat.restype = ctypes.c_void_p
    place = _LIBC.shmat(number, None, 0)
    ctypes.memmove(place, b"the user's", 10)
    try:
        yield key, lambda: ctypes.string_at(place, 10)
    finally:
        _LIBC.shmdt(ctypes.c_void_p(place))
        _LIBC.shmctl(number, _IPC_RMID, None)


@contextmanager
def user_key() -> Iterator[str]:
    """A key in the user's keyring, by name. Empty where the kernel has none."""
    name = f"kdbench-test-{secrets.token_hex(8)}"
    if KEY_CALLS is None:
        yield ""
        return
    add_key, keyctl = KEY_CALLS
    number = _LIBC.syscall(add_key, b"user", name.encode(), b"secret", 6, _USER_KEYRING)
    try:
        yield name if number > 0 else ""
    finally:
        if number > 0:
            _LIBC.syscall(keyctl, _UNLINK, number, _USER_KEYRING)


@contextmanager
def segment() -> Iterator[Path]:
    """A file in /dev/shm, as programs share memory by."""
    path = Path("/dev/shm", f"kdbench-test-{secrets.token_hex(8)}")
    path.write_text("the user's")
    try:
        yield path
    finally:
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink()


@contextmanager
def victim() -> Iterator[subprocess.Popen[str]]:
    """Another process of the user."""
    child = subprocess.Popen(
        [sys.executable, "-c", _VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Somebody makes and removes a file in a folder, again and again."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            (folder / "coming-and-going").touch()
            (folder / "coming-and-going").unlink()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Machine:
    """What else goes on, to be looked at when the runs are over."""

    listeners: Listeners
    segment: Path
    """A file in /dev/shm."""
    shared: Callable[[], bytes]
    """Reads a System V segment."""
    victim: subprocess.Popen[str]
    """Another process."""
    hints: dict[str, Any]
    """How a plugin could find all that."""


def machine(stack: ExitStack, folder: Path) -> Machine:
    """Start everything. It ends with the stack.

    Args:
        folder: somebody makes and removes files there.
    """
    listeners = Listeners(folder)
    stack.callback(listeners.close)
    shm_key, shared = stack.enter_context(shared_memory())
    path = stack.enter_context(segment())
    other = stack.enter_context(victim())
    stack.enter_context(busy(folder))
    hints = {
        "addresses": listeners.addresses,
        "shm_key": shm_key,
        "segment": path.name,
        "key": stack.enter_context(user_key()),
        "victim": other.pid,
        "watched": str(folder),
    }
    return Machine(listeners, path, shared, other, hints)


def named(comm: str) -> list[int]:
    """Processes that call themselves so."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if (entry / "comm").read_text().strip() == comm and state != "Z":
                pids.append(int(entry.name))
    return pids


def gone(comm: str, seconds: float = 300.0) -> bool:
    """Whether no such process is left, soon."""
    end = time.monotonic() + seconds
    while (left := named(comm)) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


def end(comm: str) -> None:
    """Kill what a test let loose."""
    for pid in named(comm):
        with contextlib.suppress(OSError):
            os.kill(pid, 9)
