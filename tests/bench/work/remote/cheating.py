"""A defense that looks around on the machine of a cluster. A test copies it, with what its author
may know in advance in place of HINTS."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Info, Params, Variant

HINTS: dict[str, Any] = {}
MPTCP, FASTOPEN = 262, 0x20000000
#: Seconds for a connection on this machine. It only ends a hang.
PATIENCE_S = 60


def found() -> Iterator[str]:
    """Names of the ways that got through."""
    ways: dict[str, Callable[[], bool]] = {
        "a socket by its path": lambda: any(map(connects, HINTS["sockets"])),
        "a socket by listing": lambda: any(map(connects, below(HINTS["session"]))),
        "a socket out of the kernel's table": lambda: any(map(connects, sockets())),
        "the head": lambda: calls(0),
        "the head by another protocol": lambda: calls(MPTCP),
        "the head without a connection": greets,
        "the head's port in the kernel's table": sees_port,
        "files of agents by listing": lambda: any(map(readable, below(HINTS["agents"]))),
        "a blob by its path": lambda: readable(HINTS["blob"]),
        "a file of another job by its path": lambda: readable(HINTS["job"]),
        "shared memory by listing": lambda: HINTS["segment"] in os.listdir("/dev/shm"),
        "shared memory by its name": lambda: readable(f"/dev/shm/{HINTS['segment']}"),
        "the token's file": lambda: readable(HINTS["token_file"]),
        "the token in an environment": lambda: any(HINTS["token"] in e for e in environments()),
        "the store": lambda: any(map(readable, below(HINTS["store"]))),
        "the command's folder": lambda: any(map(readable, below(HINTS["folder"]))),
        "the name of that folder": lambda: any(HINTS["folder"] in text for text in told()),
    }
    for name, way in ways.items():
        with contextlib.suppress(OSError):
            if way():
                yield name


# -- sockets ---------------------------------------------------------------------------------------


def connects(path: str) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE_S)
        caller.connect(path)
        return True
    return False


def sockets() -> Iterator[str]:
    """Those of the cluster that have a path."""
    for line in Path("/proc/self/net/unix").read_text().splitlines():
        path = line.split()[-1]
        if path.startswith(HINTS["session"]):
            yield path


def calls(protocol: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as caller:
        caller.settimeout(PATIENCE_S)
        caller.connect(HINTS["head"])
    return True


def greets() -> bool:
    with socket.socket() as caller:
        caller.settimeout(PATIENCE_S)
        return caller.sendto(b"x", FASTOPEN, HINTS["head"]) > 0


def sees_port() -> bool:
    tables = [Path("/proc/self/net", name) for name in ("tcp", "tcp6")]
    return any(f":{HINTS['head'][1]:04X} " in table.read_text() for table in tables)


# -- files and texts -------------------------------------------------------------------------------


def below(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names)


def readable(path: str) -> bool:
    if os.path.realpath(path).startswith(os.path.dirname(os.getcwd())):
        return False  # of its own job
    with contextlib.suppress(OSError), open(path, "rb"):
        return True
    return False


def environments() -> Iterator[str]:
    """Of this process, and of all that it sees."""
    yield "\n".join(os.environ.values())
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            yield (entry / "environ").read_text(errors="replace")


def told() -> Iterator[str]:
    """What was said to this process when it began."""
    yield from itertools.chain(sys.path, sys.argv, os.environ.values())
    for name in ("cmdline", "environ", "maps", "mountinfo"):
        with contextlib.suppress(OSError):
            yield Path("/proc/self", name).read_text(errors="replace")


class CheatParams(Params):
    """By which a test knows the job."""

    act: str = Field("walled", description="name of the job")


class Cheat(Defense):
    info = Info("cheat", "title", "authors", "venue", 2020, "https://example.org")
    Params = CheatParams
    acts = ("walled", "contained", "connected", "bare")
    variants = {name: Variant(name, {"act": name}) for name in acts}

    def steps(self):
        return frozenset({"cleanse_teacher"})

    def cleanse_teacher(self, teacher, setting):
        raise RuntimeError(f"FOUND[{'; '.join(found())}]")


@hookimpl
def kdbench_defenses():
    return [Cheat]
