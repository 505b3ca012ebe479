"""Opening a file that somebody else chose: a regular one, of a size that is known."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 22


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading. A link to one is followed.

    Args:
        most: the most bytes that it may have. None: any number.

    Raises:
        OSError: there is no such file, it may not be read, it is a folder, a pipe, a socket or a
            device, or it is too large.
    """
    file = open(path, "rb", opener=_open)  # noqa: SIM115 - handed to the caller
    if most is not None and os.fstat(file.fileno()).st_size > most:
        file.close()
        raise OSError(errno.EFBIG, f"it is larger than {size_in_words(most)}", str(path))
    return file


def _open(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a pipe would wait until somebody writes into it.
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return handle


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The content of an open regular file, piece by piece.

    Raises:
        OSError: there is more of it than its size was. Some files have no end although they are
            regular and of size 0, as in /proc. Others grow while they are read.
    """
    left = os.fstat(file.fileno()).st_size
    while chunk := file.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise OSError(errno.EFBIG, "it has more bytes than its size says", file.name)
        yield chunk


def read_regular(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: as :func:`open_regular` and :func:`chunks`.
    """
    with open_regular(path, most) as file:
        return b"".join(chunks(file))


def size_in_words(size: int) -> str:
    """``256 KiB``."""
    units = ("bytes", "KiB", "MiB", "GiB")
    step = min((size.bit_length() - 1) // 10 if size else 0, len(units) - 1)
    return f"{size / (1 << 10 * step):.4g} {units[step]}"
