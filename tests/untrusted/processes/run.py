"""Running a walled process to its end."""

from __future__ import annotations

import json
import os
import time

from kdbench.untrusted.processes.client import wait
from kdbench.untrusted.processes.order import View


def until(walled, done, seconds=600):
    """The lines that came before ``done()`` was true."""
    lines, deadline = [], time.monotonic() + seconds
    while True:
        assert time.monotonic() < deadline, "it took too long"
        wait([walled], 0.1)
        walled.look()
        lines += [json.loads(line) for line in walled.hear()]
        if done():
            return lines


def ended(walled):
    """Its lines, once it has ended and all was heard."""
    return until(walled, lambda: walled.exit is not None and walled.silent)


def first(walled):
    """The first thing that it says."""
    lines = []
    while not lines:
        lines = until(walled, lambda: True)
        assert lines or not walled.silent, walled.exit
    return lines[0]


def start(zygote, act, order=None, *, log=None, environment=None, links=None, **view):
    handle = None if log is None else os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    walled = zygote.start(
        f"walled_acts:{act}",
        order or {},
        View(**view),
        log=handle,
        environment=environment or {},
        links=links or {},
    )
    if handle is not None:
        os.close(handle)
    return walled
