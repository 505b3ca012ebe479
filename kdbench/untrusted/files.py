"""Opening a file that somebody else chose: a regular one, of a size that is known."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading. A link to one is followed.

    Args:
        most: the most bytes that it may have. None: any number.

    Raises:
        OSError: there is no such file, it may not be read, it is a folder, a pipe, a socket or a
            device, or it is too large.
    """
    # O_NONBLOCK: opening a pipe would wait until somebody writes into it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if most is not None and facts.st_size > most:
            raise _too_large(path, most)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: as :func:`open_regular`.
    """
    with open_regular(path, most) as file:
        # Some files have no end although they are regular and of size 0, as in /proc.
        content = file.read(most + 1)
    if len(content) > most:
        raise _too_large(path, most)
    return content


def _too_large(path: str | Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {size_in_words(most)}", str(path))


def size_in_words(size: int) -> str:
    """``256 KiB``."""
    units = ("bytes", "KiB", "MiB", "GiB")
    step = min((size.bit_length() - 1) // 10 if size else 0, len(units) - 1)
    return f"{size / (1 << 10 * step):.4g} {units[step]}"
