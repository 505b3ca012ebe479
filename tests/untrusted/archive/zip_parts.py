"""Zips made byte by byte, with every field open to lies."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(40)

Value = TypeVar("Value", int, bytes)


def _unless(lie: Value | None, truth: Value) -> Value:
    return truth if lie is None else lie


@dataclass(frozen=True)
class Part:
    """One member of a zip. A field that is None is written as it is in truth."""

    name: bytes
    """Name in the directory."""
    data: bytes = PICTURE
    """What the member unpacks to."""
    deflate: bool = True
    """Whether it is compressed."""
    packed: bytes | None = None
    """The bytes between the headers."""
    method: int | None = None
    """Number of the compression method."""
    flags: int = 0
    """General purpose flags."""
    mode: int = 0
    """Unix mode: kind of file and rights."""
    size: int | None = None
    """Size of the data."""
    crc: int | None = None
    """Checksum of the data."""
    extra: bytes = b""
    """Extra fields in the directory."""
    local_name: bytes | None = None
    """Name in the local header, the one before the data."""
    local_size: int | None = None
    """Size in the local header."""
    local_method: int | None = None
    """Method in the local header."""
    local_extra: bytes = b""
    """Extra fields in the local header."""
    local_magic: bytes = b"PK\3\4"
    """How the local header begins."""
    disk: int = 0
    """Number of the part of the archive in which the member is."""
    offset: int | None = None
    """Where the directory says that the local header is."""
    listed: bool = True
    """Whether the directory names the member."""
    behind: bytes = b""
    """Bytes after the member that belong to nothing."""

    @cached_property
    def body(self) -> bytes:
        """The member's bytes in the archive."""
        if self.packed is not None:
            return self.packed
        if not self.deflate:
            return self.data
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.data) + packer.flush()

    def _common(self, method: int | None, size: int | None, name: bytes, extra: bytes) -> bytes:
        """What both headers hold."""
        kind = (20, self.flags, _unless(method, 8 if self.deflate else 0), 0, 0x21)
        crc = _unless(self.crc, zlib.crc32(self.data))
        sizes = (len(self.body), _unless(size, len(self.data)), len(name), len(extra))
        return struct.pack("<5H3L2H", *kind, crc, *sizes)

    def local_header(self) -> bytes:
        """The header before the data."""
        name = _unless(self.local_name, self.name)
        size = self.size if self.local_size is None else self.local_size
        method = self.method if self.local_method is None else self.local_method
        common = self._common(method, size, name, self.local_extra)
        return self.local_magic + common + name + self.local_extra

    def directory_entry(self, offset: int) -> bytes:
        """The header in the directory, for a local header at ``offset``."""
        common = self._common(self.method, self.size, self.name, self.extra)
        place = (0, self.disk, 0, self.mode << 16, _unless(self.offset, offset))
        return b"PK\1\2\x14\3" + common + struct.pack("<3H2L", *place) + self.name + self.extra


def zip_end(count: int, size: int, start: int, comment: bytes = b"", disk: int = 0) -> bytes:
    """The end of a zip with a directory of ``count`` members and ``size`` bytes at ``start``."""
    numbers = struct.pack("<4H2LH", disk, 0, count, count, size, start, len(comment))
    return b"PK\5\6" + numbers + comment


def zip_body(*parts: Part, start: int = 0) -> tuple[bytes, bytes]:
    """The members' bytes from ``start`` of the file on, and the directory of those listed."""
    body, directory = b"", b""
    for part in parts:
        if part.listed:
            directory += part.directory_entry(start + len(body))
        body += part.local_header() + part.body + part.behind
    return body, directory


def zipped(*parts: Part, comment: bytes = b"", start: int = 0) -> bytes:
    """A zip of these members, for a place in the file ``start`` bytes behind its beginning."""
    body, directory = zip_body(*parts, start=start)
    count = sum(part.listed for part in parts)
    return body + directory + zip_end(count, len(directory), start + len(body), comment)


def zip64_end(count: int, size: int, start: int, *, length: int = 44, shift: int = 0) -> bytes:
    """The longer end of a zip, and its locator.

    ``length`` is what the end says of its own length. The locator misses it by ``shift`` bytes.
    """
    end = struct.pack("<Q2H2L4Q", length, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<LQL", 0, start + size + shift, 1)
    return b"PK\6\6" + end + b"PK\6\7" + locator


def zip64(part: Part, count: int = 1, *, length: int = 44, shift: int = 0) -> bytes:
    """A zip of one member with the longer end, which counts ``count``."""
    body, directory = zip_body(part)
    end = zip64_end(count, len(directory), len(body), length=length, shift=shift)
    return body + directory + end + zip_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def second_name(name: bytes, other: bytes) -> bytes:
    """The extra field that gives a member another name, in UTF-8."""
    field = b"\1" + struct.pack("<L", zlib.crc32(name)) + other
    return struct.pack("<2H", 0x7075, len(field)) + field
