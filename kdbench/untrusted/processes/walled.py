"""The walled process itself: it builds its wall, says so, and only then calls its entry."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from typing import Any, NoReturn

from kdbench.untrusted.processes.handles import close_others
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.wall.build import Wall, build_wall
from kdbench.untrusted.wall.canary import reached
from kdbench.untrusted.wall.parents import die_with_parent

_FAILED = 70


def run(
    message: dict[str, Any],
    view: View,
    wall: Wall | None,
    control: socket.socket,
    channel: int,
    links: list[int],
    *,
    namespaces: bool,
) -> NoReturn:
    """Become the walled process, and end as it ends.

    Args:
        message: the entry, its order, and what else the coordinator said.
        view: what it may reach.
        wall: the same with all paths; None for no wall.
        control: to the coordinator, closed before the entry is called.
        channel: for the entry.
        links: for the entry.
        namespaces: whether it lives in namespaces of its own.
    """
    code = _FAILED
    try:
        die_with_parent()
        with contextlib.suppress(OSError):
            os.setsid()  # a signal to its group shall not reach its supervisor
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        close_others({control.fileno(), channel, *links})
        os.chdir("/")
        report = _build(view, wall, message["bait"], namespaces=namespaces)
        os.environ.update(message["environment"])
        tempfile.tempdir = None
        control.sendall(json.dumps({"wall": report}).encode() + b"\n")
        # From here on nobody but the supervisor speaks for this process.
        control.close()
        faulthandler.enable()  # a crash leaves its traceback in the log
        _call(message, channel, links)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code & 0xFF)


def _build(
    view: View, wall: Wall | None, bait: dict[str, Any], *, namespaces: bool
) -> dict[str, Any]:
    if wall is None:
        return {"text": "none", "reached": []}
    layers = build_wall(wall, namespaces=namespaces, without=view.without)
    names = list(reached(bait))
    text = ", ".join(layers) or "none"
    return {"text": text + f" (reached: {', '.join(names)})" * bool(names), "reached": names}


def _call(message: dict[str, Any], channel: int, links: list[int]) -> None:
    module, _, name = message["entry"].partition(":")
    function = getattr(importlib.import_module(module), name)
    named = dict(zip(message["links"], links, strict=True))
    function(socket.socket(fileno=channel), message["order"], named)
