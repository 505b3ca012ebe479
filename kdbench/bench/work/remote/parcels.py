"""Files travel in pieces, so that nobody holds a whole one in memory.

A file of a machine lies in a folder that hostile code may write. So it is copied first, and the
pieces are those of the copy.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench._files import write_atomically
from kdbench.bench.work.job import (
    BOX,
    CHECKPOINT_NAME,
    CHECKPOINTS,
    MOST_CHECKPOINT_BYTES,
    MOST_TRACE_BYTES,
    OUT,
    TRACE_NAME,
    TRACES,
    Job,
)
from kdbench.bench.work.report import NonsenseError
from kdbench.untrusted.box import copy_file

#: Bytes that travel at once.
PIECE = 8 << 20


@dataclass(frozen=True)
class Parcel:
    """A file that a machine has for the coordinator."""

    #: By this name the machine is asked for its further pieces.
    name: str
    size: int
    sha256: str
    #: Its first piece. Most files have no other.
    head: bytes


class Outbox:
    """The copies that a machine keeps until the coordinator has them.

    Args:
        folder: does not exist yet. Whoever owns the folder above removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700)

    def put(self, folder: Path, name: str, limit: int) -> Parcel:
        """Copy a file of a folder that hostile code may write.

        Args:
            limit: the most bytes.

        Raises:
            IntegrityError: it is no regular file, or too large.
            OSError: it cannot be read, or the disk is full.
        """
        where = secrets.token_hex(8)
        copied = copy_file(folder, name, self._folder / where, limit)
        parcel = Parcel(where, copied.bytes, copied.sha256, self.piece(where, 0))
        if parcel.size <= PIECE:
            self.drop(parcel)
        return parcel

    def piece(self, name: str, offset: int) -> bytes:
        """A further piece of a parcel.

        Raises:
            OSError: there is no such parcel any more.
        """
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)

    def drop(self, parcel: Parcel) -> None:
        """Forget a parcel that has arrived."""
        (self._folder / parcel.name).unlink(missing_ok=True)


def pieces(path: Path) -> Iterator[tuple[bytes, bool]]:
    """A file in pieces, each with whether it is the last one. An empty file is one piece.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        piece = file.read(PIECE)
        while following := file.read(PIECE):
            yield piece, False
            piece = following
        yield piece, True


def receive(job: Job, path: str, parcel: Parcel, more: Callable[[str, int], bytes]) -> None:
    """Put a file that came from a machine where the job would have left it.

    Args:
        path: below the box of the job.
        more: gives the piece of a parcel, by its name, that begins at a byte.

    Raises:
        NonsenseError: a job could not have left such a file, or it is not what was announced.
        OSError: it cannot be written.
    """
    part, _, name = path.partition("/")
    places: dict[str, tuple[Callable[[str], object], int]] = {
        OUT: (lambda name: name in job.kind.files, job.limit_bytes),
        CHECKPOINTS: (CHECKPOINT_NAME.fullmatch, MOST_CHECKPOINT_BYTES),
        TRACES: (TRACE_NAME.fullmatch, MOST_TRACE_BYTES),
    }
    if part not in places or not places[part][0](name):
        raise NonsenseError(f"a file {path!r}")
    if not isinstance(parcel, Parcel) or not 0 <= parcel.size <= places[part][1]:
        raise NonsenseError(f"a file {path!r} of a size that none has")
    write_atomically(job.folder / BOX / path, lambda target: _fill(target, parcel, more))


def _fill(target: Path, parcel: Parcel, more: Callable[[str, int], bytes]) -> None:
    digest, size, piece = hashlib.sha256(), 0, parcel.head
    with target.open("wb") as file:
        while True:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
            if size >= parcel.size or not piece:
                break
            piece = more(parcel.name, size)
    if (size, digest.hexdigest()) != (parcel.size, parcel.sha256):
        raise NonsenseError("a file that is not what it announced")
