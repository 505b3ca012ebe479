"""Zips with a member that lies: in its name, its kind, its size or its data."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from kdbench.untrusted.archive.limits import MIB
from tests.untrusted.archive.hostile.case import Hostile
from tests.untrusted.archive.hostile.names import NAMES, PAIRS
from tests.untrusted.archive.zip_parts import Part, second_name, zip_end, zipped

PNG, SECOND = b"train/a/0.png", b"train/a/1.png"
PART = Part(PNG)
UTF8 = 1 << 11
"""The flag of a name in UTF-8."""
TERABYTE = struct.pack("<2HQ", 1, 8, 10**12)
"""A zip64 field that declares this size."""


def of(name: str, why: str, *parts: Part, escapes: bool = False) -> Hostile:
    """A case of a zip of these members."""
    return Hostile(name, why, zipped(*parts), escapes)


def cases() -> Iterator[Hostile]:
    """Every zip with a member that lies."""
    for kind in (names, second_names, pairs, kinds, methods, sizes, data, bombs, extra_fields):
        yield from kind()


def names() -> Iterator[Hostile]:
    """A name that leads elsewhere, or that is no harmless text."""
    for case, name, why, escapes in NAMES:
        yield of(f"zip {case}", why, Part(name.encode()), escapes=escapes)

    def absolute(outside: Path) -> bytes:
        return zipped(Part(bytes(outside / "new")))

    yield Hostile("zip absolute", "absolute", absolute, escapes=True)
    yield of("zip long", "name has 1,056 bytes", Part(b"/".join([b"n" * 150] * 7)))
    yield of("zip NUL", r"U\+0000", Part(PNG + b"\0.txt"))
    yield of("zip wrong UTF-8", "not in UTF-8", Part(b"train/\xff.png", flags=UTF8))


def second_names() -> Iterator[Hostile]:
    """Another name in the local header, or in an extra field."""
    other = "calls it 'train/b/0.png'"
    yield of("zip own name", other, Part(PNG, local_name=b"train/b/0.png"))
    outside = second_name(b"0.png", b"../outside/new")
    yield of("zip renamed by a field", "renames it", Part(b"0.png", extra=outside))
    no_text = Part(b"0.png", flags=UTF8, extra=second_name(b"0.png", b"\xff"))
    yield of("zip second name of no text", "second name is not in UTF-8", no_text)
    accented = "\u00e9.png".encode()
    renamed = Part(accented, flags=UTF8, extra=second_name(accented, b"x.png"))
    yield of("zip renamed where it need not be", "renames it", renamed)


def pairs() -> Iterator[Hostile]:
    """Two names that may mean one file."""
    for case, both, why in PAIRS:
        yield of(f"zip {case}", why, *(Part(name.encode()) for name in both))


def kinds() -> Iterator[Hostile]:
    """A member that is no file, or whose kind is not that of its name."""
    link = Part(b"way", b"../outside", mode=stat.S_IFLNK | 0o777)
    yield of("zip link", "symbolic link", link, Part(b"way/new"), escapes=True)
    yield of("zip FIFO", "FIFO", Part(PNG, b"", mode=stat.S_IFIFO | 0o644))
    yield of("zip device", "device", Part(PNG, b"", mode=stat.S_IFBLK | 0o644))
    folder = Part(b"train/a", b"", mode=stat.S_IFDIR | 0o755)
    yield of("zip hidden folder", "file by its name", folder)
    yield of("zip full folder", "folder, and has a size", Part(b"train/a/"))


def methods() -> Iterator[Hostile]:
    """Encrypted, or compressed by a method that is not known."""
    yield of("zip encrypted", "it is encrypted;", Part(PNG, flags=1))
    yield of("zip strongly encrypted", "flags 0x0040", Part(PNG, flags=1 << 6))
    yield of("zip unknown method", "method is 14", Part(PNG, method=14))
    yield of("zip own method", "another kind of member", Part(PNG, local_method=0))


def sizes() -> Iterator[Hostile]:
    """A size that is not that of the data."""
    yield of("zip own size", "differ in its size", Part(PNG, local_size=7))
    less = "unpacks to 48 bytes and declares 49"
    yield of("zip less than declared", less, Part(PNG, size=49))
    yield of("zip more than declared", "more than the 47 bytes", Part(PNG, size=47))
    stored = Part(PNG, deflate=False, size=49)
    yield of("zip wrong size stored", "not compressed, and yet", stored)


def data() -> Iterator[Hostile]:
    """Data that is damaged, cut, or followed by more."""
    yield of("zip wrong checksum", "checksum", Part(PNG, crc=1))
    yield of("zip damaged data", "damaged", Part(PNG, packed=b"\xff" * 20))
    yield of("zip data behind data", "follows the end", Part(PNG, packed=PART.body + b"more"))
    yield of("zip cut data", "too early", Part(PNG, packed=PART.body[:-3]))


def bombs() -> Iterator[Hostile]:
    """Small archives that unpack to much more."""
    yield of("zip bomb", "200 times", Part(PNG, bytes(16 * MIB)))
    many = (Part(b"train/a/%03d.png" % number, bytes(MIB)) for number in range(32))
    yield of("zip bomb in parts", "100 times", *many)
    lying = Part(b"0.png", packed=_zeros(times=2), size=1000)
    yield of("zip lying bomb", "more than the 1,000 bytes", lying)
    huge = Part(PNG, b"", size=0xFFFFFFFF, local_size=0xFFFFFFFF, extra=TERABYTE)
    yield of("zip64 of a terabyte", "200 times", huge)
    yield of("zip same bytes", "overlaps", PART, Part(SECOND, offset=0))
    yield Hostile("zip overlap", "overlaps", _overlapping())


def _zeros(times: int) -> bytes:
    """So many times 16 MiB of zeros, compressed to some 16 KB each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * times + packer.flush()


def _overlapping(count: int = 40) -> bytes:
    """Each member's compressed bytes quote the next one's header and go on into its bytes.

    So there are ``count`` members and one kernel.
    """
    parts = [Part(b"train/a/%03d.png" % (count - 1), bytes(2**18))]
    for number in reversed(range(count - 1)):
        following, name = parts[0], b"train/a/%03d.png" % number
        head = following.local_header()
        quoted = b"\0" + struct.pack("<2H", len(head), len(head) ^ 0xFFFF) + head
        parts.insert(0, Part(name, head + following.data, packed=quoted + following.body))
    body, directory, offset = parts[0].local_header() + parts[0].body, b"", 0
    for part in parts:
        directory += part.directory_entry(offset)
        offset += len(part.local_header()) + 5
    return body + directory + zip_end(count, len(directory), len(body))


def extra_fields() -> Iterator[Hostile]:
    """Extra fields that are damaged, or that say other numbers."""
    yield of("zip64 size beside a size", "other numbers", Part(PNG, extra=TERABYTE))
    yield of("zip64 size missing", "sizes are missing", Part(PNG, size=0xFFFFFFFF))
    yield of("zip64 own size", "zip64 field and its own", Part(PNG, local_extra=TERABYTE))
    damaged = "extra field is damaged"
    yield of("zip cut field", damaged, Part(PNG, extra=TERABYTE[:-1]))
    yield of("zip fields behind fields", damaged, Part(PNG, extra=b"abc"))
