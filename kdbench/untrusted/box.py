"""Reads and removes a folder that hostile code may write, or could write until lately.

A name in such a folder may be a link to a file of the user, a pipe that blocks whoever opens it, or
a file that grows for ever. It may change between two looks. So each file is opened once, below a
descriptor of its folder, without following links and without waiting. What the descriptor is of is
then checked, and all bytes come from that descriptor.

The folder itself may have been replaced as well. The folder above it must be out of reach of the
hostile code.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.errors import IntegrityError

_PIECE = 1 << 20
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Opens a place without reading it, so that no right to read it is needed. Linux only.
_PLACE = getattr(os, "O_PATH", os.O_RDONLY)
_NATURES = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Copied:
    """What was copied. It describes the bytes of the copy, whatever happens to the original."""

    sha256: str
    """SHA-256, hexadecimal."""
    bytes: int
    """How many."""


def copy_file(
    folder: Path,
    name: str,
    target: Path,
    limit: int,
    *,
    shared: bool = False,
    mode: int = 0o444,
    synced: bool = False,
) -> Copied:
    """Copy a regular file of a folder into a new file, and hash what is copied.

    Args:
        folder: it must not be a link itself.
        name: of the file in it, without a slash.
        target: must not exist.
        limit: the most bytes. It holds while the file is copied, too.
        shared: allow a file that has a further name elsewhere. Only for folders of one's own.
        mode: of the new file.
        synced: the copy is on the disk when this returns.

    Raises:
        IntegrityError: there is no such file, it is no regular file, or it is too large. Nothing is
            left of the copy.
        OSError: it cannot be read, or the copy cannot be written.
    """
    source = _open_file(folder, name, limit, shared)
    try:
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copied = _copy(source, copy, name, limit)
            os.fchmod(copy, mode)
            if synced:
                os.fsync(copy)
        except BaseException:
            target.unlink()
            raise
        finally:
            os.close(copy)
    finally:
        os.close(source)
    return copied


def _copy(source: int, copy: int, name: str, limit: int) -> Copied:
    digest, size = hashlib.sha256(), 0
    while piece := os.read(source, _PIECE):
        size += len(piece)
        if size > limit:
            raise _too_large(name, limit)
        digest.update(piece)
        left = memoryview(piece)
        while left:
            left = left[os.write(copy, left) :]
    return Copied(digest.hexdigest(), size)


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """The content of a regular file of a folder.

    Args:
        folder: it must not be a link itself.
        name: of the file in it, without a slash.
        limit: the most bytes. It holds while the file is read, too.

    Raises:
        IntegrityError: there is no such file, it is no regular file, or it is too large.
        OSError: it cannot be read.
    """
    with open(_open_file(folder, name, limit, shared=False), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _too_large(name, limit)
    return content


def check_file(folder: Path, name: str, limit: int) -> None:
    """Refuse what is no regular file of a folder. For a folder that nobody writes any more.

    Args:
        folder: it must not be a link itself.
        name: of the file in it, without a slash.
        limit: the most bytes.

    Raises:
        IntegrityError: there is no such file, it is no regular file, or it is too large.
        OSError: it cannot be read.
    """
    os.close(_open_file(folder, name, limit, shared=False))


def file_names(folder: Path, most: int) -> list[str]:
    """Sorted names of what is in a folder, for :func:`copy_file`. Only ``most`` are looked at.

    It is empty where there is no such folder.
    """
    names: list[str] = []
    try:
        handle = os.open(folder, os.O_RDONLY | _FOLDER)
    except OSError:
        return names
    try:
        with contextlib.suppress(OSError), os.scandir(handle) as entries:
            for entry in entries:
                if len(names) >= most:
                    break
                names.append(entry.name)
    finally:
        os.close(handle)
    return sorted(names)


def remove_tree(path: Path, seconds: float = math.inf) -> int:
    """Delete a folder with all below it, or a single file, and follow no link.

    What cannot be deleted stays, as does what is left after so many seconds. Depth does not matter:
    a folder below another one is moved up before it is emptied.

    Returns:
        The bytes that were freed.
    """
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError), _opened(path.parent) as above:
        return _remove(above, path.name, end)
    return 0


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder, removed in the end as by :func:`remove_tree`."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove_tree(folder)


def prune(
    folder: Path, keep: Callable[[str, os.stat_result], bool], seconds: float = math.inf
) -> None:
    """Delete what is in a folder as :func:`remove_tree` does, except what is to be kept.

    Args:
        folder: a link in its place is left alone.
        keep: whether to keep a name, and what it stands for. Links are not followed.
        seconds: as there.
    """
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError), _opened(folder.parent) as above:
        handle = _open_folder(above, folder.name)
        try:
            for name in os.listdir(handle):
                if not keep(name, os.stat(name, dir_fd=handle, follow_symlinks=False)):
                    _remove(handle, name, end)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder that is out of reach of hostile code."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _remove(above: int, name: str, end: float) -> int:
    """Delete a name in a folder, with all below it."""
    if not _is_folder(above, name):
        return _unlink(above, name)
    top = _open_folder(above, name)
    try:
        freed = _empty(top, end)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=above)
    return freed


def _empty(top: int, end: float) -> int:
    """Delete all that is in a folder."""
    left: list[str] = []
    freed = _unlink_files(top, top, left, end)
    while left and time.monotonic() < end:
        name = left.pop()
        with contextlib.suppress(OSError):
            handle = _open_folder(top, name)
            try:
                freed += _unlink_files(handle, top, left, end)
            finally:
                os.close(handle)
            os.rmdir(name, dir_fd=top)
    return freed


def _unlink_files(folder: int, top: int, left: list[str], end: float) -> int:
    """Delete the files of a folder, and move its folders up to ``top``: their names go to ``left``.

    No more than two folders are then open at once, however deep they were.
    """
    freed = 0
    for name in os.listdir(folder):
        if time.monotonic() > end:
            break
        if not _is_folder(folder, name):
            freed += _unlink(folder, name)
        elif folder == top:
            left.append(name)
        else:
            with contextlib.suppress(OSError):
                # Whoever moves a folder must be able to write in it.
                os.close(_open_folder(folder, name))
                moved = secrets.token_hex(16)
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
                left.append(moved)
    return freed


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _unlink(folder: int, name: str) -> int:
    """Delete a name that is no folder; answers the bytes that this frees."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        os.unlink(name, dir_fd=folder)
    except OSError:
        return 0
    # In blocks, since a file with holes may claim any size.
    return facts.st_blocks * 512 if facts.st_nlink == 1 else 0


def _open_folder(folder: int, name: str) -> int:
    """A descriptor of a folder in a folder, made accessible to its owner where it was not."""
    place = os.open(name, _PLACE | _FOLDER, dir_fd=folder)
    try:
        if os.fstat(place).st_mode & 0o700 != 0o700:
            # By its descriptor: the name could be a link by now.
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(".", os.O_RDONLY | _FOLDER, dir_fd=place)
    finally:
        os.close(place)


def _open_file(folder: Path, name: str, limit: int, shared: bool) -> int:
    """A descriptor of a regular file, with its size checked."""
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file in a folder")
    try:
        above = os.open(folder, os.O_RDONLY | _FOLDER)
    except OSError as error:
        raise _wrong(error, f"{folder.name}/") from error
    try:
        # Before it is opened: opening a device may do something.
        _check(name, os.stat(name, dir_fd=above, follow_symlinks=False), limit, shared)
        file = os.open(name, _FILE, dir_fd=above)
    except OSError as error:
        raise _wrong(error, name) from error
    finally:
        os.close(above)
    try:
        _check(name, os.fstat(file), limit, shared)
    except BaseException:
        os.close(file)
        raise
    return file


def _check(name: str, facts: os.stat_result, limit: int, shared: bool) -> None:
    """Raise IntegrityError unless it is a regular file of the right size, with one name."""
    if not stat.S_ISREG(facts.st_mode):
        nature = next((words for is_one, words in _NATURES if is_one(facts.st_mode)), "something")
        raise IntegrityError(f"{name} is {nature} and no regular file")
    if facts.st_nlink != 1 and not shared:
        raise IntegrityError(f"{name} is a hard link: the file has a further name elsewhere")
    if facts.st_size > limit:
        raise _too_large(name, limit)


def _too_large(name: str, limit: int) -> IntegrityError:
    return IntegrityError(f"{name} is larger than the {limit} bytes that it may have")


def _wrong(error: OSError, name: str) -> Exception:
    """The error to raise where something could not be opened."""
    if error.errno == errno.ENOENT:
        return IntegrityError(f"{name} is missing")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return IntegrityError(f"{name} is not what it should be: {error.strerror}")
    return error
