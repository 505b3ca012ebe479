"""Unpack a stranger's zip or tar: only plain files and folders, only below one folder, all of it or
nothing.

An archive is gone through twice. The first time every member is named, measured and decompressed,
and nothing is written; the second time the same checks run again, and the files appear in a
temporary folder, which is renamed when it is whole. zip (stored and deflated) and tar (plain, gzip,
bzip2, xz) are recognised by what is in them, whatever they are called.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kdbench.errors import IntegrityError
from kdbench.untrusted.archive.limits import DEFAULT, Limits, Member, Refusal, Tally
from kdbench.untrusted.archive.names import Names
from kdbench.untrusted.archive.stream import MAGIC, TarStream
from kdbench.untrusted.archive.tar import tar_members
from kdbench.untrusted.archive.zip import END, MEMBER, zip_members

__all__ = ["Limits", "leftovers", "unpack"]


def unpack(archive: Path, into: Path, limits: Limits = DEFAULT) -> None:
    """Unpack ``archive`` to the new folder ``into``, whose parent exists; files get mode 0600,
    folders 0700.

    What macOS adds (``__MACOSX/`` and ``._*``) is checked like the rest and not written.

    Raises:
        IntegrityError: the archive is damaged, hostile or beyond the limits; names the member and
            says why.
        OSError: it cannot be read, or ``into`` cannot be written or holds something.
    Either way, and when interrupted, nothing is left behind.
    """
    try:
        with archive.open("rb") as file:
            read = _reader(file, limits)
            files = 0
            for _, member in read():
                files += not member.folder
                for _ in member.chunks:
                    pass
            if not files:
                raise Refusal("it holds no file")
            with _appearing(into) as folder:
                for parts, member in read():
                    _write(folder, parts, member)
    except Refusal as error:
        # A name may be of any length, and hold anything, which repr makes harmless.
        which = "" if error.member is None else f"member {error.member[:200]!r}: "
        raise IntegrityError(
            f"archive {archive}: {which}{error.why}; nothing of it was unpacked, get or make the "
            "archive anew"
        ) from error


def leftovers(into: Path) -> list[Path]:
    """Temporary folders beside ``into``: of a run that was killed while it unpacked to it, or of
    one that does so now."""
    return sorted(into.parent.glob(f".{into.name}-*"))


def _reader(
    file: BinaryIO, limits: Limits
) -> Callable[[], Iterator[tuple[tuple[str, ...], Member]]]:
    """A function that goes through the archive from its beginning: each member with the parts of
    its path."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = file.read(6)

    def members() -> Iterator[Member]:
        file.seek(0)
        if begin.startswith((MEMBER, END)):
            return zip_members(file, length, limits)
        kind = next((kind for magic, kind in MAGIC.items() if begin.startswith(magic)), None)
        return tar_members(TarStream(file, Tally(limits, length), kind), limits)

    def checked() -> Iterator[tuple[tuple[str, ...], Member]]:
        names = Names(limits)
        for member in members():
            yield names.add(member.name, member.folder), member

    return checked


@contextlib.contextmanager
def _appearing(into: Path) -> Iterator[Path]:
    """A temporary folder beside ``into`` that becomes it in the end, or disappears with all that is
    in it."""
    folder = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        yield folder
        os.rename(folder, into)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(folder: Path, parts: tuple[str, ...], member: Member) -> None:
    path = folder.joinpath(*parts)
    if "__MACOSX" in parts[:1] or any(part.startswith("._") for part in parts):
        for _ in member.chunks:
            pass
        return
    _make(path if member.folder else path.parent)
    if member.folder:
        return
    # A new file or none: what lies there already, were it a link, is an error.
    handle = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600
    )
    with open(handle, "wb") as out:
        for chunk in member.chunks:
            out.write(chunk)


def _make(folder: Path) -> None:
    # makedirs would give the folders in between the mode that the umask leaves.
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700)
