"""Zip archives read strictly: the directory at the end and the headers before each member must tell
the same, to the byte.

zipfile is not used: it takes what lies between, before and behind the members for nothing, believes
the directory where a member's own header differs, and reads a directory whole, however large.

Format: PKWARE's APPNOTE.TXT 6.3.10, in brackets below.
"""

from __future__ import annotations

import itertools
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from kdbench.untrusted.archive.limits import Limits, Member, Refusal, Tally, check_ratio
from kdbench.untrusted.archive.stream import PIECE, decoded

END, MEMBER = b"PK\5\6", b"PK\3\4"
_END = struct.Struct("<4s4H2LH")  # [4.3.16]
_LOCATOR = struct.Struct("<4sLQL")  # [4.3.15]
_END64 = struct.Struct("<4sQ2H2L4Q")  # [4.3.14]
_ENTRY = struct.Struct("<4s6H3L5H2L")  # [4.3.12]
_LOCAL = struct.Struct("<4s5H3L2H")  # [4.3.7]

_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "look in the zip64 field" [4.4.1.4]
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 1 << 0, 1 << 3, 1 << 11
_KNOWN_FLAGS = 0b110 | _DESCRIPTOR | _UTF8  # bits 1 and 2 say how hard the compressor tried [4.4.4]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member as the directory tells of it."""

    raw: bytes
    name: str
    folder: bool
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int


def zip_members(file: BinaryIO, length: int, limits: Limits) -> Iterator[Member]:
    """Every member in the order of its bytes. file: seekable, of ``length`` bytes. Raises
    Refusal."""
    start, end, count = _directory(file, length, limits)
    places = sorted(_places(file, start, end, count, limits, Tally(limits, length)))
    # The members must cover the file without a gap or an overlap: one that lies in another is how a
    # small file becomes petabytes, and what lies between is seen by some readers only.
    position = 0
    for (offset, where), (following, _) in itertools.pairwise((*places, (start, end))):
        entry, _ = _entry_at(file, where, end, limits)
        if offset != position:
            raise Refusal(
                "it overlaps another member" if offset < position else "something lies before it",
                entry.name,
            )
        first = _check_local(file, entry)
        _check_between(file, entry, first + entry.stored, following)
        position = following
        yield Member(entry.name, entry.folder, entry.size, _data(file, entry, first, limits))


def _directory(file: BinaryIO, length: int, limits: Limits) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many members it lists."""
    tail_start = max(0, length - _END.size - _FULL16)
    tail = _at(file, tail_start, length - tail_start)
    where = tail.rfind(END)
    if where < 0 or len(tail) - where < _END.size:
        raise Refusal(
            "it has no directory at its end; it is truncated, or something follows its end"
        )
    end = tail_start + where
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, where)
    if end + _END.size + comment != length:
        raise Refusal("something follows its end, or its comment is cut")
    if end >= _LOCATOR.size and _at(file, end - _LOCATOR.size, 4) == b"PK\6\7":
        short = (disk, first_disk, here, count, size, start)
        end, (disk, first_disk, here, count, size, start) = _directory64(
            file, end - _LOCATOR.size, short
        )
    if disk or first_disk or here != count:
        raise Refusal("it is one part of several")
    if not count:
        raise Refusal("it is empty")
    if count > limits.members:
        raise Refusal(f"it holds {count:,} members; more than {limits.members:,} are not taken")
    if start + size != end:
        raise Refusal("its directory does not lie where its end says")
    return start, end, count


def _directory64(file: BinaryIO, where: int, short: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The same of a zip64, whose end has another record for large numbers: its place, and the six
    numbers."""
    _, locator_disk, end, disks = _LOCATOR.unpack(_at(file, where, _LOCATOR.size))
    if locator_disk or disks != 1 or end != where - _END64.size:
        raise Refusal("its zip64 end does not lie where it must")
    signature, size, _, _, *numbers = _END64.unpack(_at(file, end, _END64.size))
    if signature != b"PK\6\6" or size != _END64.size - 12:
        raise Refusal("its zip64 end is damaged")
    for old, new, full in zip(short, numbers, (*[_FULL16] * 4, *[_FULL32] * 2), strict=True):
        if old not in (new, full):
            raise Refusal("its zip64 end and its plain end tell of different directories")
    return end, tuple(numbers)


def _places(
    file: BinaryIO, start: int, end: int, count: int, limits: Limits, tally: Tally
) -> Iterator[tuple[int, int]]:
    """Where each member and its entry in the directory begin. Two numbers are kept of each: there
    may be very many."""
    position = start
    for _ in range(count):
        entry, following = _entry_at(file, position, end, limits)
        check_ratio(entry.name, entry.size, entry.stored, limits)
        tally.add(entry.size)
        yield entry.offset, position
        position = following
    if position != end:
        raise Refusal("its directory lists more members than its end says")


def _entry_at(file: BinaryIO, position: int, end: int, limits: Limits) -> tuple[_Entry, int]:
    """The entry at ``position`` of the directory, and where the next one begins."""
    if position + _ENTRY.size > end:
        raise Refusal("its directory is damaged, or lists fewer members than it says")
    record = _ENTRY.unpack(_at(file, position, _ENTRY.size))
    name_length, extra_length, comment_length = record[10:13]
    following = position + _ENTRY.size + name_length + extra_length + comment_length
    if record[0] != b"PK\1\2" or following > end:
        raise Refusal("its directory is damaged")
    if name_length > limits.name:
        raise Refusal(
            f"a member's name has {name_length:,} bytes; more than {limits.name:,} are not taken"
        )
    variable = _at(file, position + _ENTRY.size, name_length + extra_length)
    entry = _entry(record, variable[:name_length], variable[name_length:])
    if entry.method == _STORED and entry.stored != entry.size:
        raise Refusal(
            f"it is not compressed, and yet {entry.stored:,} bytes stand for {entry.size:,}",
            entry.name,
        )
    if entry.folder and entry.size:
        raise Refusal("it is a folder, and has a size", entry.name)
    return entry, following


def _entry(record: tuple[Any, ...], raw: bytes, extra: bytes) -> _Entry:
    _, _, _, flags, method, _, _, crc, stored, size, _, _, _, disk, _, attributes, offset = record
    fields = _extra_fields(extra, raw)
    name = _name(raw, flags, fields)
    if flags & _ENCRYPTED:
        raise Refusal("it is encrypted", name)
    if flags & ~_KNOWN_FLAGS:
        raise Refusal(
            f"it is encrypted or of another kind that is not read (flags {flags:#06x})", name
        )
    if method not in (_STORED, _DEFLATED):
        raise Refusal(
            f"its compression method is {method}; only stored and deflated members are read", name
        )
    numbers = _long_numbers(fields, name, (size, stored, offset), disk)
    mode = stat.S_IFMT(attributes >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO"}.get(
            mode, "a device or a socket"
        )
        raise Refusal(f"it is {kind}", name)
    folder = name.endswith("/")
    if mode == stat.S_IFDIR and not folder:
        raise Refusal("it is a folder by its attributes and a file by its name", name)
    return _Entry(raw, name, folder, flags, method, crc, numbers[1], numbers[0], numbers[2])


def _name(raw: bytes, flags: int, fields: dict[int, bytes]) -> str:
    """The name, in UTF-8 where it is that (Info-ZIP and macOS do not always say so), else in the
    old code page 437."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp437")
        if flags & _UTF8:
            raise Refusal("its name is not in UTF-8, and says so", name) from None
    if (other := fields.get(_UNICODE_PATH)) is not None:
        try:
            better = other[5:].decode()
        except UnicodeDecodeError:
            raise Refusal("its second name is not in UTF-8", name) from None
        stale = other[:1] != b"\1" or other[1:5] != struct.pack("<L", zlib.crc32(raw))
        if better != name and (stale or raw.isascii() or flags & _UTF8):
            raise Refusal(f"an extra field renames it {better!r}", name)
        name = better
    return name


def _extra_fields(extra: bytes, raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    start = 0
    while start + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, start)
        start += 4 + size
        if start > len(extra) or (kind in found and kind in (_ZIP64, _UNICODE_PATH)):
            raise Refusal("its extra field is damaged", raw.decode("cp437"))
        found[kind] = extra[start - size : start]
    # Zeros at the end are how some tools align a member's bytes.
    if extra[start:].strip(b"\0"):
        raise Refusal("its extra field is damaged", raw.decode("cp437"))
    return found


def _long_numbers(
    fields: dict[int, bytes], name: str, numbers: tuple[int, ...], disk: int = 0
) -> list[int]:
    """``numbers`` with those that say so replaced from the zip64 field, which must hold these and
    no others [4.5.3]."""
    field = fields.get(_ZIP64)
    wanted = [number == _FULL32 for number in numbers]
    if field is None:
        if any(wanted) or disk:
            raise Refusal("its sizes are missing, or it lies in another part", name)
        return list(numbers)
    if len(field) != 8 * sum(wanted) + 4 * (disk == _FULL16) or not field:
        raise Refusal("its zip64 field holds other numbers than it must", name)
    if disk not in (0, _FULL16) or (disk and field[-4:] != bytes(4)):
        raise Refusal("it lies in another part", name)
    values = iter(struct.unpack_from(f"<{sum(wanted)}Q", field))
    return [next(values) if full else number for number, full in zip(numbers, wanted, strict=True)]


def _check_local(file: BinaryIO, entry: _Entry) -> int:
    """Compare the header before a member's bytes with the directory; returns where the bytes
    begin."""
    header = _at(file, entry.offset, _LOCAL.size)
    if header[:4] != MEMBER:
        raise Refusal("it has no header of its own where the directory says", entry.name)
    _, _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL.unpack(header)
    variable = _at(file, entry.offset + _LOCAL.size, name_length + extra_length)
    raw, fields = variable[:name_length], _extra_fields(variable[name_length:], entry.raw)
    if raw != entry.raw or _name(raw, flags, fields) != entry.name:
        raise Refusal(
            f"its own header calls it {raw.decode('utf-8', 'backslashreplace')!r}", entry.name
        )
    if (flags ^ entry.flags) & ~0b110 or method != entry.method:
        raise Refusal(
            "its own header tells of another kind of member than the directory", entry.name
        )
    if _FULL32 in (size, stored):
        size, stored = _long_numbers(fields, entry.name, (size, stored))
    elif _ZIP64 in fields and fields[_ZIP64] != struct.pack("<2Q", size, stored):
        raise Refusal("its zip64 field and its own header differ in its size", entry.name)
    later = entry.flags & _DESCRIPTOR
    for mine, known in ((crc, entry.crc), (size, entry.size), (stored, entry.stored)):
        if mine != known and not (later and mine == 0):
            raise Refusal(
                "its own header and the directory differ in its size or checksum", entry.name
            )
    return int(entry.offset + _LOCAL.size + name_length + extra_length)


def _check_between(file: BinaryIO, entry: _Entry, end: int, following: int) -> None:
    """Behind a member's bytes lies the next member, or first a descriptor that repeats its checksum
    and sizes [4.3.9]."""
    if end > following:
        raise Refusal("it overlaps another member, or the directory", entry.name)
    between = _at(file, end, min(following - end, 25))
    allowed = [b""]
    if entry.flags & _DESCRIPTOR:
        shapes = ["<3L", "<L2Q"] if max(entry.stored, entry.size) <= _FULL32 else ["<L2Q"]
        allowed = [struct.pack(shape, entry.crc, entry.stored, entry.size) for shape in shapes]
        allowed += [b"PK\7\x08" + descriptor for descriptor in allowed]
    if between not in allowed:
        raise Refusal("something lies behind it that belongs to no member", entry.name)


def _data(file: BinaryIO, entry: _Entry, first: int, limits: Limits) -> Iterator[bytes]:
    pieces = _pieces(file, first, entry.stored)
    got, crc = 0, 0
    try:
        for chunk in (
            decoded(pieces, "deflate", single=True) if entry.method == _DEFLATED else pieces
        ):
            got += len(chunk)
            crc = zlib.crc32(chunk, crc)
            if got > entry.size:
                raise Refusal(f"it unpacks to more than the {entry.size:,} bytes that it declares")
            check_ratio(entry.name, got, entry.stored, limits)
            yield chunk
    except Refusal as error:
        raise Refusal(error.why, entry.name) from error
    if got != entry.size:
        raise Refusal(f"it unpacks to {got:,} bytes and declares {entry.size:,}", entry.name)
    if crc != entry.crc:
        raise Refusal("its bytes do not have the checksum that it declares", entry.name)


def _pieces(file: BinaryIO, first: int, count: int) -> Iterator[bytes]:
    for start in range(first, first + count, PIECE):
        yield _at(file, start, min(PIECE, first + count - start))


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    """``count`` bytes from ``start``; Refusal where the file has become shorter."""
    file.seek(start)
    found = file.read(count)
    if len(found) < count:
        raise Refusal("it ends too early; it is truncated, or changes while it is read")
    return found
