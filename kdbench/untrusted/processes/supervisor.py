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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from kdbench.untrusted.processes import walled
from kdbench.untrusted.processes.handles import close_others
from kdbench.untrusted.processes.identity import difference
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.processes.tree import processes
from kdbench.untrusted.wall.build import Wall
from kdbench.untrusted.wall.confine import landlock_abi
from kdbench.untrusted.wall.namespaces import Namespaces, build
from kdbench.untrusted.wall.parents import adopt_orphans, die_with_parent, hide
from kdbench.untrusted.wall.paths import Software, device_paths, network_paths

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


def run(
    handles: list[int], namespaces: Namespaces, needed: Software, code: Mapping[str, str]
) -> NoReturn:
    """Be the supervisor of one child, from the server's fork to its own end.

    Args:
        handles: its order, its control stream, its channel, its log and its links.
        namespaces: makes them where the kernel gives them.
        needed: what the interpreter has to open.
        code: what it runs, see :func:`kdbench.untrusted.processes.identity.identity`.
    """
    ending = _NEVER_BEGAN
    try:
        signal.set_wakeup_fd(-1)
        close_others({*handles, *namespaces.handles()})
        order, control, *others = handles
        child = _Supervisor(order, control, namespaces, needed)
        if child.runs(code):
            child.run(*others)
        ending = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(ending)


@dataclass
class _End:
    """How the walled process ended."""

    code: int
    peak_mb: float


class _Supervisor:
    def __init__(self, order: int, control: int, namespaces: Namespaces, needed: Software) -> None:
        self.namespaces, self.needed = namespaces, needed
        self.coordinator = socket.socket(fileno=control)
        self._say(pid=os.getpid())
        with open(order, "rb") as file:
            self.message: dict[str, Any] = json.loads(file.read())
        self.view = View.from_json(self.message["view"])

    def runs(self, code: Mapping[str, str]) -> bool:
        """Whether this is the code that the coordinator runs. If not, it is told, and the end."""
        refusal = difference(self.message["identity"], code)
        if refusal:
            self._say(exit=_NEVER_BEGAN, peak_mb=0.0, refusal=refusal)
        return not refusal

    def run(self, channel: int, log: int, *links: int) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for handle in (null, log):
            os.close(handle)
        with contextlib.suppress(OSError):
            os.setsid()
        adopt_orphans()
        wall = self._wall()
        wanted = wall is not None and "namespaces" not in self.view.without
        if apart := wanted and self.namespaces.available:
            self.namespaces.enter()
        self.namespaces.close()
        # Not before: the kernel forgets it when a process changes its namespaces.
        die_with_parent(signal.SIGTERM)
        heard, saying = os.pipe()
        wake = wake_on_child()
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            arguments = (self.message, self.view, wall, self.coordinator, channel, list(links))
            if apart:
                assert wall is not None
                _begin_namespace(self.view, wall, saying)
            walled.run(*arguments, namespaces=apart)
        if apart:
            self._say(first=child)
        hide()
        for handle in (saying, channel, *links):
            os.close(handle)
        end = self._watch(child, wake)
        with open(heard, "rb") as file:
            said = file.read()
        if said:
            end = _End(**json.loads(said))
        self._say(exit=end.code, peak_mb=end.peak_mb)

    def _wall(self) -> Wall | None:
        view = self.view
        if not view.confined:
            return None
        return Wall(
            (*self.needed.read, *(network_paths() if view.network else ()), *view.read),
            view.write,
            (*self.needed.listed, *view.listed),
            tuple(device_paths()) if view.devices else (),
            network=view.network,
            shm_mb=view.shm_mb,
            processes=view.processes,
            file_mb=view.file_mb,
        )

    def _watch(self, child: int, wake: int) -> _End:
        """Wait for the child's end, or end it on SIGTERM or when the coordinator says so."""
        stopped = False

        def stop(*_: object) -> None:
            nonlocal stopped
            stopped = True
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)

        signal.signal(signal.SIGTERM, stop)
        said = self.coordinator.fileno()
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == child:
                break
            if pid:
                continue
            ready, _, _ = select.select([wake] if stopped else [wake, said], [], [])
            if wake in ready:
                os.read(wake, 4096)
            if said in ready:
                stop()
        _end_rest()
        return _End(os.waitstatus_to_exitcode(status), _peak_mb(usage.ru_maxrss))

    def _say(self, **message: object) -> None:
        with contextlib.suppress(OSError):  # the coordinator has gone
            self.coordinator.sendall(json.dumps(message).encode() + b"\n")


def _begin_namespace(view: View, wall: Wall, saying: int) -> None:
    """Be the first process of a namespace. Its one child returns; it itself never does."""
    die_with_parent()
    # The kernel keeps from the first process each signal that has its default action.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    landlock = "landlock" not in view.without and landlock_abi() > 0
    mounts = wall.mounts(own_proc="proc" not in view.without, landlock=landlock)
    build(mounts, network=view.network, processes=view.processes)
    child = os.fork()
    if not child:
        return
    try:
        hide()
        close_others({saying})
        while True:
            pid, status, usage = os.wait4(-1, 0)
            if pid == child:
                code, peak_mb = os.waitstatus_to_exitcode(status), _peak_mb(usage.ru_maxrss)
                os.write(saying, json.dumps({"code": code, "peak_mb": peak_mb}).encode())
                break
    finally:
        # With it the kernel ends all others of the namespace.
        os._exit(0)


def _end_rest() -> None:
    """End what the child left behind. All of it became, or becomes, a child of this process."""
    deadline = time.monotonic() + _ENDING_S
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in processes(fresh_s=0.0).below(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _peak_mb(of: int) -> float:
    return of / (2**20 if sys.platform == "darwin" else 2**10)
