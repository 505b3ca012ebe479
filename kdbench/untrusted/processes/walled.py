"""The walled process itself: it builds its wall, says so, and only then calls its entry."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from kdbench.untrusted.processes.order import View
from kdbench.untrusted.wall.confine import confine, device_paths, interpreter_paths
from kdbench.untrusted.wall.parents import die_with_parent

_FAILED = 70


def run(
    message: dict[str, Any], view: View, control: socket.socket, channel: int, links: list[int]
) -> NoReturn:
    """Become the walled process, and end as it ends."""
    code = _FAILED
    try:
        _become(message, view, control, channel, links)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            pass
        os._exit(code & 0xFF)


def _become(
    message: dict[str, Any], view: View, control: socket.socket, channel: int, links: list[int]
) -> None:
    die_with_parent()
    _close_others({control.fileno(), channel, *links})
    faulthandler.enable()  # a crash leaves its traceback in the log
    os.chdir("/")
    text = _build(view)
    os.environ.update(message["environment"])
    tempfile.tempdir = None
    report = {"wall": {"text": text, "reached": []}}
    control.sendall(json.dumps(report).encode() + b"\n")
    # From here on nobody but the supervisor speaks for this process.
    control.close()
    module, _, name = message["entry"].partition(":")
    function = getattr(importlib.import_module(module), name)
    function(
        socket.socket(fileno=channel),
        message["order"],
        dict(zip(message["links"], links, strict=True)),
    )


def _build(view: View) -> str:
    if not view.confined:
        return "none"
    devices = device_paths() if view.devices else []
    return confine([*interpreter_paths(), *view.read], [*view.write, Path("/dev/shm"), *devices])


def _close_others(kept: set[int]) -> None:
    start = 3
    for handle in sorted(kept):
        os.closerange(start, handle)
        start = handle + 1
    os.closerange(start, max(start, 1024))
