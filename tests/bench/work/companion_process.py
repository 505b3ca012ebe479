"""A companion in a process of its own, without a wall; and one whose bytes a test writes itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from torch import nn

from kdbench.bench.work.companions import serve
from kdbench.models.files import save_module

CLASSES, SIZE = 3, 16
_SERVE = """
import json, socket, sys
from kdbench.bench.work.companions import serve
channel, _ = socket.socketpair()
serve(channel, json.loads(sys.stdin.read()), {"job": int(sys.argv[1])})
"""


def order(module: nn.Module, folder: Path, role: str, packages: tuple[str, ...] = (), **changes):
    """What a companion is told about a module, which is kept in ``folder``."""
    path = folder / f"{role}.safetensors"
    save_module(module.eval(), path)
    return {
        "role": role,
        "file": str(path),
        "packages": list(packages),
        "plugins": str(folder),
        "num_classes": CLASSES,
        "image_size": SIZE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "device": "cpu",
        "bf16": False,
        "threads": 1,
        **changes,
    }


@contextmanager
def companion(told: dict) -> Iterator[int]:
    """The descriptor that leads to a companion's process. It must end by itself afterwards."""
    near, far = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(far.fileno())],
        pass_fds=[far.fileno()],
        stdin=subprocess.PIPE,
        text=True,
    )
    far.close()
    process.stdin.write(json.dumps(told))
    process.stdin.close()
    try:
        yield near.fileno()
    finally:
        near.shutdown(socket.SHUT_RDWR)
        near.close()
        assert process.wait(300) == 0


@contextmanager
def thread(told: dict) -> Iterator[int]:
    """As :func:`companion`, in a thread: it starts at once, and shares everything."""

    def act(far: socket.socket) -> None:
        with closing(socket.socket()) as channel:
            serve(channel, told, {"job": far.fileno()})

    with liar(act) as descriptor:
        yield descriptor


@contextmanager
def liar(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """The descriptor that leads to a thread which does ``act`` with its end of the socket."""
    near, far = socket.socketpair()

    def body() -> None:
        with far:
            try:
                act(far)
            except OSError:
                return

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield near.fileno()
    finally:
        near.shutdown(socket.SHUT_RDWR)
        near.close()
        thread.join(300)
