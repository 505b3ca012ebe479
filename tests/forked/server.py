"""The process that is forked: ``python server.py ADDRESS ROOT``. It ends when its standard input
does.

It serves two kinds of requests, each at an address of its own. At ``ADDRESS.small`` it has imported
what the process has that forks jobs, and at ``ADDRESS.large`` the command line, too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
import traceback
from typing import NoReturn

SMALL = (
    "torch",
    "torch._dynamo",
    "kdbench.loading.host",
    "kdbench.bench.work.executors.child",
    "kdbench.untrusted.processes.server",
)
LARGE = ("pandas", "rich.live", "filelock", "safetensors.torch", "torchvision", "timm")
_LENGTH = struct.Struct("=I")


def main() -> None:
    address, root = sys.argv[1:]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads would be lost in a fork
    sys.path.append(root)
    from tests.forked import pages, python

    del sys.path[-1]
    python.remember_paths()
    for name in SMALL:
        importlib.import_module(name)
    pages.settle()  # for both
    if os.fork():
        _serve(f"{address}.small", {})
    else:
        import kdbench

        for name in (*LARGE, *_modules_of(kdbench)):
            importlib.import_module(name)
        _serve(f"{address}.large", {"address": address})


def _modules_of(package) -> list[str]:
    names = [each.name for each in pkgutil.walk_packages(package.__path__, "kdbench.")]
    return [name for name in names if not name.endswith("__main__")]


def _serve(address: str, then: dict[str, str]) -> None:
    """Fork for whoever connects. A connection ends with the process that it asked for."""
    from tests.forked import pages

    pages.settle()
    wake, signalled = socket.socketpair()
    for end in (wake, signalled):
        end.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen(64)
    os.rename(f"{address}.new", address)  # there once it listens
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, wake, listening], [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            _tell_ends(children)
        if listening in ready:
            asked, _ = listening.accept()
            _fork(asked, children, then)
        if 0 in ready:
            for child in children:
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
            os._exit(0)


def _fork(asked: socket.socket, children: dict[int, socket.socket], then: dict[str, str]) -> None:
    head, streams, _, _ = socket.recv_fds(asked, _LENGTH.size, 3)
    (length,) = _LENGTH.unpack(head)
    request = json.loads(asked.recv(length, socket.MSG_WAITALL))
    child = os.fork()
    if not child:
        try:
            _become(request, streams, then)
        finally:  # it comes here only if it could not begin
            traceback.print_exc()
            os._exit(70)
    for stream in streams:
        os.close(stream)
    children[child] = asked
    _say(asked, {"pid": child})


def _become(request: dict, streams: list[int], then: dict[str, str]) -> NoReturn:
    from tests.forked import client, python

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 4096)
    if then:
        client.fork_zygotes(lambda: then["address"], request["server"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    python.become(request["arguments"], request["environment"], request["folder"])


def _tell_ends(children: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            if asked := children.pop(child, None):
                with contextlib.suppress(OSError), asked:
                    _say(asked, {"exit": os.waitstatus_to_exitcode(status)})


def _say(asked: socket.socket, what: dict[str, int]) -> None:
    with contextlib.suppress(OSError):
        asked.sendall(json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
