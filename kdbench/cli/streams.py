"""Standard output and error that may be closed, full, or a pipe whose reader has gone.

None of them ends a command: what it computes is worth more than what it prints. A reader that has
gone (``| head``) has read enough, so the rest is dropped, and the exit code is as ever. Output that
cannot be written for another reason is told on standard error, and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class Lenient(io.RawIOBase):
    """A descriptor to which writing always succeeds. Whatever it does not take is dropped."""

    def __init__(self, handle: int) -> None:
        super().__init__()
        self._handle = handle
        #: Whether nothing more is written.
        self.closed_by_reader = False
        #: Why something was lost. Empty: nothing was, or nobody wanted it any more.
        self.lost = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def write(self, data: object) -> int:
        left = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(left)
        while left and not self.closed_by_reader:
            try:
                left = left[os.write(self._handle, left) :]
            except BrokenPipeError:
                self.closed_by_reader = True
            except OSError as error:
                self.lost = self.lost or error.strerror or str(error)
                break
        return size


def _open_all() -> None:
    """Open what the caller has closed, so that no file or socket gets one of the first numbers."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(handle, True)
    os.close(handle)


def _lenient(handle: int, like: TextIO | None) -> tuple[Lenient, io.TextIOWrapper]:
    raw = Lenient(handle)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if like is None else like.encoding,
        errors="backslashreplace" if like is None else like.errors,
        line_buffering=handle == 2 or raw.isatty(),
    )
    return raw, text


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Print leniently inside. Streams that somebody else has put in place are left alone.

    Raises:
        SystemExit: with code 1 at the end, where output was lost and nothing else went wrong.
    """
    _open_all()
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield
        return
    before = sys.stdout, sys.stderr
    out, sys.stdout = _lenient(1, before[0])
    _, sys.stderr = _lenient(2, before[1])
    try:
        yield
    except SystemExit as end:
        sys.stdout.flush()
        if out.lost and not end.code:
            raise SystemExit(1) from None
        raise
    finally:
        sys.stdout.flush()
        if out.lost:
            print(f"standard output cannot be written: {out.lost}", file=sys.stderr, flush=True)
        sys.stderr.flush()
        # Nothing is left in them, and Python closes them in the end.
        sys.stdout, sys.stderr = before
