"""Tar archives read strictly: only what plain files and folders need, and nothing that two readers
understand differently.

tarfile is not used: it takes a damaged header in the middle for the end of the archive, and reads
extended headers whole.

Format: POSIX.1-2001 (ustar and pax) and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kdbench.untrusted.archive.limits import CHUNK, MIB, Limits, Member, Refusal, check_ratio
from kdbench.untrusted.archive.stream import PIECE, TarStream

BLOCK = 512
_ZERO = bytes(BLOCK)
# bytes of an extended header, at most; it may hold what a file system knows of a file besides its
# bytes
_EXTENDED = MIB
_NAME = 100  # bytes of a name that a plain header holds

_NO_ARCHIVE = "this is no archive that is read: zip, or tar (plain, gzip, bzip2, xz)"
_OCTAL = re.compile(b"[0-7]+")
_LENGTH = re.compile(b"([1-9][0-9]{0,7}) ")

_SPECIAL = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"K": "a link with a long name",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"S": "a sparse file",
}


@dataclass(frozen=True)
class _Header:
    name: str
    kind: bytes
    size: int


@dataclass(frozen=True)
class _Extra:
    """What an extended header says of the member that follows it."""

    name: str | None = None
    size: int | None = None


def tar_members(stream: TarStream, limits: Limits) -> Iterator[Member]:
    """Every member in turn, up to the end of the archive, which must be the end of the file. Raises
    Refusal."""
    extra: _Extra | None = None
    block = stream.read(BLOCK)
    while block != _ZERO:
        header = _header(block)
        if header.kind == b"g":
            _check_global(_extended(stream, header), header.name)
        elif header.kind in (b"x", b"L"):
            if extra is not None:
                raise Refusal("two extended headers belong to one member", header.name)
            body = _extended(stream, header)
            extra = _pax(body, header.name) if header.kind == b"x" else _gnu(body, header.name)
        else:
            member = _member(stream, header, extra or _Extra(), limits)
            yield member
            for _ in member.chunks:
                pass  # whatever the caller did not take
            extra = None
        block = stream.exactly(BLOCK)
    if extra is not None:
        raise Refusal("it ends behind an extended header")
    rest = stream.exactly(BLOCK)
    while rest:
        if rest.strip(b"\0"):
            raise Refusal("something follows the end of the tar")
        rest = stream.read(CHUNK)


def _member(stream: TarStream, header: _Header, extra: _Extra, limits: Limits) -> Member:
    name = header.name if extra.name is None else extra.name
    if header.kind in _SPECIAL:
        raise Refusal(f"it is {_SPECIAL[header.kind]}", name)
    if header.kind not in (b"0", b"\0", b"5"):
        raise Refusal(f"it is neither a file nor a folder (type {header.kind!r})", name)
    if name != header.name and name.isascii() and len(name) <= _NAME:
        # Its own header could have held that name: whoever looks only there is to see another.
        raise Refusal(f"an extended header renames it; its own header says {header.name!r}", name)
    if extra.size not in (None, header.size):
        raise Refusal(
            f"an extended header gives it {extra.size:,} bytes, its own header {header.size:,}",
            name,
        )
    folder = header.kind == b"5" or name.endswith("/")
    if folder and header.size:
        raise Refusal("it is a folder, and has a size", name)
    return Member(name, folder, header.size, _data(stream, name, header.size, limits))


def _data(stream: TarStream, name: str, size: int, limits: Limits) -> Iterator[bytes]:
    fed, missing = stream.fed, size
    while missing:
        try:
            chunk = stream.exactly(min(CHUNK, missing))
        except Refusal as error:
            raise Refusal(error.why, name) from error
        missing -= len(chunk)
        # A piece that was read before may still lie in the decoder, and the last one is not all
        # used.
        check_ratio(name, size - missing, stream.fed - fed + PIECE, limits)
        yield chunk
    stream.exactly(-size % BLOCK)


def _header(block: bytes) -> _Header:
    checksum = block[148:156].strip(b" \0")
    # The sum counts its own eight bytes as spaces.
    if (
        not _OCTAL.fullmatch(checksum)
        or int(checksum, 8) != sum(block) - sum(block[148:156]) + 8 * 32
    ):
        raise Refusal(f"a member's header is damaged, or {_NO_ARCHIVE}")
    magic = block[257:265]
    if magic[:6] not in (b"ustar\0", b"ustar ", bytes(6)):
        raise Refusal(f"a member's header is of no known kind of tar ({magic!r})")
    name = _text(block[:_NAME])
    # Behind GNU's magic other things may stand in this place, which some readers take for a part of
    # the name.
    prefix = _text(block[345:500], name) if magic[:6] == b"ustar\0" else ""
    if magic[:6] == b"ustar " and block[345:500].strip(b"\0") and block[156:157] != b"S":
        raise Refusal("its header has fields that not every reader knows", name)
    name = f"{prefix}/{name}" if prefix else name
    return _Header(name, block[156:157], _size(block[124:136], name))


def _size(field: bytes, name: str) -> int:
    """A size as headers write it. The other ways to write one are for files beyond 8 GiB, and no
    image is one."""
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(digits):
        raise Refusal(f"its size is no octal number ({field!r})", name)
    return int(digits, 8)


def _text(field: bytes, name: str | None = None) -> str:
    """A header's text, which ends at the first NUL; behind it nothing else may stand."""
    found, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise Refusal("its name goes on behind a NUL", found.decode(errors="replace"))
    return _utf8(found, name)


def _utf8(found: bytes, name: str | None = None) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            "its name is not in UTF-8", name or found.decode(errors="backslashreplace")
        ) from error


def _extended(stream: TarStream, header: _Header) -> bytes:
    if header.size > _EXTENDED:
        raise Refusal(f"its extended header has {header.size:,} bytes", header.name)
    parts = []
    for start in range(0, header.size, CHUNK):
        parts.append(stream.exactly(min(CHUNK, header.size - start)))
    stream.exactly(-header.size % BLOCK)
    return b"".join(parts)


def _gnu(body: bytes, name: str) -> _Extra:
    text, _, rest = body.partition(b"\0")
    if rest.strip(b"\0"):
        raise Refusal("its long name goes on behind a NUL", name)
    return _Extra(_utf8(text, name))


def _pax(body: bytes, name: str) -> _Extra:
    records = _records(body, name)
    for key in records:
        if key == b"linkpath" or key.startswith((b"GNU.sparse.", b"SCHILY.realsize")):
            raise Refusal(
                "its extended header makes it "
                f"{'a link' if key == b'linkpath' else 'a sparse file'}",
                name,
            )
    path, size = records.get(b"path"), records.get(b"size")
    return _Extra(
        None if path is None else _utf8(path, name), None if size is None else _decimal(size, name)
    )


def _check_global(body: bytes, name: str) -> None:
    """A header for all members that follow may hold a comment, as git's do; anything else would
    change them unseen."""
    others = sorted(
        key.decode(errors="replace") for key in _records(body, name) if key != b"comment"
    )
    if others:
        raise Refusal(f"a header for all members sets {', '.join(others)}", name)


def _records(body: bytes, name: str) -> dict[bytes, bytes]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax header, each key once."""
    found: dict[bytes, bytes] = {}
    start = 0
    while start < len(body):
        length = _LENGTH.match(body, start)
        end = start + int(length[1]) if length else 0
        if length is None or not length.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise Refusal("its extended header is damaged", name)
        key, equals, value = body[length.end() : end - 1].partition(b"=")
        if not equals or key in found:
            raise Refusal(
                f"its extended header is damaged, or says {key.decode(errors='replace')!r} twice",
                name,
            )
        found[key] = value
        start = end
    return found


def _decimal(value: bytes, name: str) -> int:
    if not re.fullmatch(b"[0-9]{1,20}", value):
        raise Refusal(f"its extended header has the size {value!r}", name)
    return int(value)
