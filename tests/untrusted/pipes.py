"""A named pipe that hangs nobody for ever, not even code that waits for its other end."""

from __future__ import annotations

import contextlib
import os
import threading

#: Long enough for any test, and short enough to wait for where one fails.
_SECONDS = 20.0


@contextlib.contextmanager
def pipe(path):
    """Make a pipe. Whoever still waits for its other end after a while gets an end of file."""
    os.mkfifo(path)
    keep = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    timer = threading.Timer(_SECONDS, _release, [f"/proc/self/fd/{keep}"])
    timer.daemon = True
    timer.start()
    try:
        yield path
    finally:
        timer.cancel()
        os.close(keep)


def _release(path):
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
