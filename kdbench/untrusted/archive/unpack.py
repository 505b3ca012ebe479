"""Unpacking a stranger's zip or tar.

Only plain files and folders are unpacked, only below one folder, and all of them or none. An
archive is read twice. The first pass checks every name and size and decompresses every member, and
writes nothing. The second pass runs the same checks again and writes into a temporary folder, which
is renamed when it is complete.

Formats are zip (stored and deflated) and tar (plain, gzip, bzip2, xz). They are recognised by
content; the file's name does not matter.
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
from kdbench.untrusted.archive.limits import DEFAULT, ArchiveLimits, Member, Refusal, Tally
from kdbench.untrusted.archive.names import Names
from kdbench.untrusted.archive.stream import MAGIC, TarStream
from kdbench.untrusted.archive.tar import tar_members
from kdbench.untrusted.archive.zip import END, MEMBER, zip_members

__all__ = ["ArchiveLimits", "leftovers", "unpack"]


def unpack(archive: Path, into: Path, limits: ArchiveLimits = DEFAULT) -> None:
    """Unpack ``archive`` to the new folder ``into``, whose parent must exist.

    Files get mode 0600 and folders 0700. The extra files of macOS (``__MACOSX/`` and ``._*``) are
    checked like the rest and not written. After an error or an interruption nothing is left behind.

    Raises:
        IntegrityError: the archive is damaged, hostile or beyond the limits. The message names the
            member and says why.
        OSError: the archive cannot be read, or ``into`` cannot be written or is not empty.
    """
    try:
        with archive.open("rb") as file:
            read = _reader(file, limits)
            # First pass: nothing is written, and the bytes are thrown away.
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
        # A name may be of any length and hold any character, which repr makes harmless.
        which = "" if error.member is None else f"member {error.member[:200]!r}: "
        raise IntegrityError(
            f"archive {archive}: {which}{error.why}; nothing of it was unpacked, get or make the "
            "archive anew"
        ) from error


def leftovers(into: Path) -> list[Path]:
    """Temporary folders beside ``into``.

    They belong to a run that was killed while it unpacked, or to one that unpacks now.
    """
    return sorted(into.parent.glob(f".{into.name}-*"))


def _reader(
    file: BinaryIO, limits: ArchiveLimits
) -> Callable[[], Iterator[tuple[tuple[str, ...], Member]]]:
    """A function that reads the archive from its beginning.

    Each call iterates over the members, each one with the checked parts of its path.
    """
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
    """A temporary folder beside ``into``.

    At the end it is renamed to ``into``. After an error it is removed with its contents.
    """
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
    # O_EXCL: a file, or even a link, that is there already is an error and never written through.
    handle = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600
    )
    with open(handle, "wb") as out:
        for chunk in member.chunks:
            out.write(chunk)


def _make(folder: Path) -> None:
    # Not makedirs: it would give the folders in between the mode that the umask leaves.
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700)
