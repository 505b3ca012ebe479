"""A job that lives on, takes memory where nobody counts it, and changes its result afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path

from hostile_kit import defense, forge, libc, named, results

from kdbench.hookspecs import hookimpl

HINTS = {}
PR_SET_NAME = 15


def let_loose(work):
    """Run a function in a process that no group or parent holds."""
    if os.fork():
        return
    with contextlib.suppress(OSError):
        os.setsid()
    if os.fork():
        os._exit(0)
    try:
        libc("prctl", PR_SET_NAME, HINTS["comm"].encode(), 0, 0, 0)
        work()
    finally:
        os._exit(0)


def take(mib):
    """Memory that is really used."""
    return [bytearray(b"x") * (1 << 20) for _ in range(mib)]


def survive(student, setting):
    def live():
        with contextlib.suppress(BaseException):
            for number in range(1, 65):
                libc("signal", number, 1, answer=ctypes.c_long)
        time.sleep(600)

    let_loose(live)
    time.sleep(0.3)


def crowd(student, setting):
    """Three processes of its own, each with a third of what one may have."""

    def hoard():
        held = take(500)
        time.sleep(100)
        del held

    for _ in range(3):
        let_loose(hoard)
    time.sleep(100)


def swap(student, setting):
    """The file of the result stays open. It is another one while it is measured."""

    def exchange():
        for path in results():
            number = os.open(path, os.O_RDWR)
            watcher = watch(path)
            let_loose(lambda number=number, watcher=watcher: change(number, watcher))

    forge(lambda outcome: None, exchange)


def watch(path):
    """A descriptor that tells when a file is opened and closed; None where that is refused."""
    with contextlib.suppress(OSError):
        watcher = libc("inotify_init1", os.O_NONBLOCK, answer=ctypes.c_int)
        # Of equal events in a row only one is told, so both are asked for.
        libc("inotify_add_watch", watcher, str(path).encode(), 0x30, answer=ctypes.c_int)
        return watcher
    return None


def change(number, watcher):
    """Zero weights between the last check of the file and its use, then put them back."""
    size = os.fstat(number).st_size
    start = size // 2
    good = os.pread(number, size - start, start)
    bad, closed, end = bytes(len(good)), 0, time.monotonic() + 60
    while watcher is not None and time.monotonic() < end:
        events = b""
        with contextlib.suppress(BlockingIOError):  # asked again at once, since it is a race
            events = os.read(watcher, 65536)
        for place in range(0, len(events), 16):
            if int.from_bytes(events[place + 4 : place + 8], sys.byteorder) & 0x10:
                closed += 1
                if closed >= 3:
                    os.pwrite(number, bad if closed == 3 else good, start)
    while True:  # no way to see when, so again and again
        for content in (bad, good):
            os.pwrite(number, content, start)
            time.sleep(0.01)


ACTS = [survive, crowd, swap]
assert Path("/proc").exists()


@hookimpl
def kdbench_defenses():
    return [defense("processes", named(ACTS))]
