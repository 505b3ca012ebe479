"""A program with the arguments ``MODULE... -- MODULE...``: forks when asked to.

It has imported torch and the modules named, and has loaded nothing. Standard input is a stream
socket. Each byte on it comes with the descriptors of one child. The server forks at once and closes
them. It reads no order, so a child holds nothing of another child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys

from kdbench.untrusted.processes import supervisor
from kdbench.untrusted.processes.identity import identity
from kdbench.untrusted.processes.tree import processes
from kdbench.untrusted.wall.namespaces import Namespaces
from kdbench.untrusted.wall.parents import adopt_orphans
from kdbench.untrusted.wall.paths import Software, import_paths, importable, interpreter_paths

#: Most descriptors of a message; the kernel allows no more.
_MOST_HANDLES = 253
#: Seconds without a request after which there is time to import more.
_IDLE_S = 0.2


def main() -> None:
    """Serve until standard input ends. Then end every child."""
    # Ctrl-C reaches every process of the terminal. The coordinator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    # Now, while this process is small.
    namespaces = Namespaces()
    at = sys.argv.index("--")
    for name in ("torch", *sys.argv[1:at]):
        importlib.import_module(name)
    # Whoever asks for a child before need not wait for these.
    later = sys.argv[at + 1 :]
    needed = Software(tuple(interpreter_paths()), importable(import_paths()).listed)
    code = identity()
    _freeze()
    asked = socket.socket(fileno=os.dup(0))
    wake = supervisor.wake_on_child()
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([asked.fileno(), wake], [], [], _IDLE_S if later else None)
        while not ready and later:
            importlib.import_module(later.pop(0))
            _freeze()
        if wake in ready:
            os.read(wake, 4096)
            _reap(children, namespaces.mapper)
        if asked.fileno() in ready:
            handles = _handles(asked)
            if handles is None:
                break
            child = _fork()
            if child == 0:
                asked.close()
                os.close(wake)
                supervisor.run(handles, namespaces, needed, code)
            if child is not None:
                children.add(child)
            for handle in handles:
                os.close(handle)
    namespaces.close()
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGTERM)
    while children:
        _reap(children, namespaces.mapper, wait=True)


def _freeze() -> None:
    """Leave alone what is there now: a child shall not copy it only to look whether it is used."""
    gc.collect()
    gc.freeze()


def _fork() -> int | None:
    """As ``os.fork``. None: the kernel gives no further process."""
    try:
        return os.fork()
    except OSError:
        # Its descriptors are closed, so it shows as ended. The other children live on.
        return None


def _handles(asked: socket.socket) -> list[int] | None:
    """The descriptors of the next child; None at the end."""
    try:
        data, handles, _, _ = socket.recv_fds(asked, 1, _MOST_HANDLES)
    except OSError:
        return None
    return handles if data else None


def _reap(children: set[int], mapper: int | None, *, wait: bool = False) -> None:
    """Take note of children that ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
            if not child:
                break
            if child in children and status:
                # Whoever ended a supervisor left its processes to this one.
                _end_orphans(children - {child}, mapper)
            children.discard(child)
    if wait:
        children.clear()


def _end_orphans(children: set[int], mapper: int | None) -> None:
    for pid in processes(fresh_s=0.0).children.get(os.getpid(), []):
        if pid not in children and pid != mapper:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
