"""A job that lives on, takes memory where nobody counts it, and changes its result afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path

from hostile_kit import defense, forge, libc, results

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
    return [bytearray(os.urandom(1 << 20)) for _ in range(mib)]


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
        time.sleep(60)
        del held

    for _ in range(3):
        let_loose(hoard)
    time.sleep(20)


def swap(student, setting):
    """The file of the result stays open. It is another one while it is measured."""

    def exchange():
        descriptors = [os.open(path, os.O_RDWR) for path in results()]

        def work():
            for number in descriptors:
                changing(number)

        let_loose(work)

    forge(lambda outcome: None, exchange)


def changing(number):
    """Zero the weights between the check of the file and its use, then put them back."""
    size = os.fstat(number).st_size
    good = os.pread(number, size, 0)
    start = 8 + int.from_bytes(good[:8], "little")
    bad = good[:start] + bytes(size - start)
    place = f"/proc/self/fd/{number}"
    try:
        watcher = libc("inotify_init1", 0, answer=ctypes.c_int)
        libc("inotify_add_watch", watcher, place.encode(), 0x10, answer=ctypes.c_int)
    except OSError:
        for _ in range(200):  # no way to see when, so again and again
            os.pwrite(number, bad, 0)
            time.sleep(0.01)
            os.pwrite(number, good, 0)
            time.sleep(0.01)
        return
    closed = 0
    while True:
        closed += len(os.read(watcher, 65536)) // 16
        if closed >= 3:
            os.pwrite(number, bad if closed == 3 else good, 0)


ACTS = [survive, crowd, swap]
assert Path("/proc").exists()


@hookimpl
def kdbench_defenses():
    return [defense("red", {act.__name__: act for act in ACTS})]
