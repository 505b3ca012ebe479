"""The parent of a walled process. It runs nothing of a plugin, and says how its child ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from kdbench.untrusted.processes import walled
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.processes.tree import processes
from kdbench.untrusted.wall.parents import adopt_orphans, die_with_parent, hide

#: Seconds to end processes that keep starting others.
_ENDING_S = 5.0
#: Exit code of a process that never reached its entry.
_NEVER_BEGAN = 70


def wake_on_child() -> int:
    """A descriptor that becomes readable when a child ends or SIGTERM comes."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return wake_read


def run(handles: list[int]) -> NoReturn:
    """Be the supervisor of one child, from the server's fork to its own end."""
    code = _NEVER_BEGAN
    try:
        _supervise(*handles)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _supervise(order: int, control: int, channel: int, log: int, *links: int) -> None:
    signal.set_wakeup_fd(-1)
    with contextlib.suppress(OSError):
        os.setsid()
    die_with_parent(signal.SIGTERM)
    adopt_orphans()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    coordinator = socket.socket(fileno=control)
    _say(coordinator, pid=os.getpid())
    with open(order, "rb") as file:
        message = json.loads(file.read())
    for handle in (null, log):
        os.close(handle)
    view = View.from_json(message["view"])
    wake = wake_on_child()
    child = os.fork()
    if not child:
        os.close(wake)
        _clean_signals()
        walled.run(message, view, coordinator, channel, list(links))
    hide()
    for handle in (channel, *links):
        os.close(handle)
    _watch(child, coordinator, wake)


def _clean_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _watch(child: int, coordinator: socket.socket, wake: int) -> None:
    """Wait for the child's end, or end it on SIGTERM or when the coordinator says so."""
    told = False
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    while True:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == child:
            break
        if pid:
            continue
        said = coordinator.fileno()
        ready, _, _ = select.select([wake] if told else [wake, said], [], [])
        if wake in ready:
            os.read(wake, 4096)
        if said in ready:
            told = True
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
    _end_rest()
    peak_mb = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    _say(coordinator, exit=os.waitstatus_to_exitcode(status), peak_mb=peak_mb)


def _end_rest() -> None:
    """End what the child left behind. All of it became, or becomes, a child of this process."""
    deadline = time.monotonic() + _ENDING_S
    while time.monotonic() < deadline:
        for pid in processes(fresh_s=0.0).below(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _say(coordinator: socket.socket, **message: object) -> None:
    with contextlib.suppress(OSError):  # it has gone
        coordinator.sendall(json.dumps(message).encode() + b"\n")
