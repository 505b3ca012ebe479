"""A strict reader of tar archives.

It reads only what plain files and folders need. It refuses whatever two readers may understand
differently. Python's tarfile is not used for two reasons. It takes a damaged header in the middle
for the end of the archive, and it reads extended headers whole, however long they are.

Format: POSIX.1-2001 (ustar and pax) and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kdbench.untrusted.archive.limits import CHUNK, MIB, ArchiveLimits, Member, Refusal, check_ratio
from kdbench.untrusted.archive.stream import PIECE, TarStream

BLOCK = 512
"""Bytes. A header is one block, and a member's bytes fill whole blocks."""
_ZERO = bytes(BLOCK)
_EXTENDED = MIB
"""The most bytes of an extended header. It may hold what a file system knows of a file, such as its
access rights."""
_NAME = 100
"""The most bytes of a name in a plain header."""

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
    """What an extended header says about the next member; None where it says nothing."""

    name: str | None = None
    size: int | None = None


def tar_members(stream: TarStream, limits: ArchiveLimits) -> Iterator[Member]:
    """Every member in turn. The end of the archive must be the end of the file.

    Raises:
        Refusal: the archive is damaged, or holds something that is not read.
    """
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
                pass  # The caller may not have taken all bytes; the next header lies behind them.
            extra = None
        block = stream.exactly(BLOCK)
    if extra is not None:
        raise Refusal("it ends behind an extended header")
    # Two blocks of zeros end a tar. Tools add more of them, to fill a record of a tape.
    rest = stream.exactly(BLOCK)
    while rest:
        if rest.strip(b"\0"):
            raise Refusal("something follows the end of the tar")
        rest = stream.read(CHUNK)


def _member(stream: TarStream, header: _Header, extra: _Extra, limits: ArchiveLimits) -> Member:
    name = header.name if extra.name is None else extra.name
    if header.kind in _SPECIAL:
        raise Refusal(f"it is {_SPECIAL[header.kind]}", name)
    if header.kind not in (b"0", b"\0", b"5"):
        raise Refusal(f"it is neither a file nor a folder (type {header.kind!r})", name)
    if name != header.name and name.isascii() and len(name) <= _NAME:
        # The plain header has room for this name. So somebody wants readers that look only there
        # to see another name.
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


def _data(stream: TarStream, name: str, size: int, limits: ArchiveLimits) -> Iterator[bytes]:
    fed, missing = stream.fed, size
    while missing:
        try:
            chunk = stream.exactly(min(CHUNK, missing))
        except Refusal as error:
            raise Refusal(error.why, name) from error
        missing -= len(chunk)
        # One PIECE is added: bytes that were read before this member may still lie in the decoder.
        check_ratio(name, size - missing, stream.fed - fed + PIECE, limits)
        yield chunk
    # Zeros fill the last block.
    stream.exactly(-size % BLOCK)


def _header(block: bytes) -> _Header:
    checksum = block[148:156].strip(b" \0")
    # The sum is taken with its own eight bytes as spaces.
    if (
        not _OCTAL.fullmatch(checksum)
        or int(checksum, 8) != sum(block) - sum(block[148:156]) + 8 * 32
    ):
        raise Refusal(f"a member's header is damaged, or {_NO_ARCHIVE}")
    magic = block[257:265]
    if magic[:6] not in (b"ustar\0", b"ustar ", bytes(6)):
        raise Refusal(f"a member's header is of no known kind of tar ({magic!r})")
    name = _text(block[:_NAME])
    # GNU's format has other fields in the place of the prefix. Some readers take them for a part of
    # the name, so a header that uses them is refused.
    prefix = _text(block[345:500], name) if magic[:6] == b"ustar\0" else ""
    if magic[:6] == b"ustar " and block[345:500].strip(b"\0") and block[156:157] != b"S":
        raise Refusal("its header has fields that not every reader knows", name)
    name = f"{prefix}/{name}" if prefix else name
    return _Header(name, block[156:157], _size(block[124:136], name))


def _size(field: bytes, name: str) -> int:
    """A size in octal digits. Tar's other notations are for files beyond 8 GiB, and no image is
    that large."""
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(digits):
        raise Refusal(f"its size is no octal number ({field!r})", name)
    return int(digits, 8)


def _text(field: bytes, name: str | None = None) -> str:
    """A header's text, which ends at the first NUL. Only NULs may follow it."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise Refusal("its name goes on behind a NUL", text.decode(errors="replace"))
    return _utf8(text, name)


def _utf8(text: bytes, name: str | None = None) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            "its name is not in UTF-8", name or text.decode(errors="backslashreplace")
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
    """Refuse a header for all members that holds more than a comment.

    Archives made by git have such a comment. Any other key would change the members unseen.
    """
    others = sorted(
        key.decode(errors="replace") for key in _records(body, name) if key != b"comment"
    )
    if others:
        raise Refusal(f"a header for all members sets {', '.join(others)}", name)


def _records(body: bytes, name: str) -> dict[bytes, bytes]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax header. A key may occur once only."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(body):
        length = _LENGTH.match(body, start)
        end = start + int(length[1]) if length else 0
        if length is None or not length.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise Refusal("its extended header is damaged", name)
        key, equals, value = body[length.end() : end - 1].partition(b"=")
        if not equals or key in records:
            raise Refusal(
                f"its extended header is damaged, or says {key.decode(errors='replace')!r} twice",
                name,
            )
        records[key] = value
        start = end
    return records


def _decimal(value: bytes, name: str) -> int:
    if not re.fullmatch(b"[0-9]{1,20}", value):
        raise Refusal(f"its extended header has the size {value!r}", name)
    return int(value)
