"""Tars whose members, headers or compression lie, and files that are no archive."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

from kdbench.untrusted.archive.limits import MIB
from tests.untrusted.archive.hostile.case import Hostile
from tests.untrusted.archive.hostile.names import NAMES, PAIRS
from tests.untrusted.archive.tar_blocks import block, pax, tarred
from tests.untrusted.archive.zip_parts import PICTURE

PNG = b"train/a/0.png"
GOOD = block(PNG, PICTURE)
OLD_GNU = b"ustar  "
"""The magic of a header by GNU tar."""


def of(name: str, why: str, *blocks: bytes, escapes: bool = False) -> Hostile:
    """A case of a tar of these blocks."""
    return Hostile(name, why, tarred(*blocks), escapes)


def cases() -> Iterator[Hostile]:
    """Every hostile tar, and what is no archive."""
    for kind in (names, pairs, links, kinds, extended, gnu, headers, ends, streams, bombs, nothing):
        yield from kind()


def names() -> Iterator[Hostile]:
    """A name that leads elsewhere, or that is no harmless text."""
    for case, name, why, escapes in NAMES:
        if len(name.encode()) <= 100:  # what fits into a header
            yield of(f"tar {case}", why, block(name.encode(), PICTURE), escapes=escapes)

    def absolute(outside: Path) -> bytes:
        return tarred(block(bytes(outside / "new"), PICTURE))

    yield Hostile("tar absolute", "absolute", absolute, escapes=True)
    yield of("tar NUL", "behind a NUL", block(PNG + b"\0.txt", PICTURE))
    yield of("tar wrong UTF-8", "not in UTF-8", block(b"train/\xff.png", PICTURE))


def pairs() -> Iterator[Hostile]:
    """Two names that may mean one file."""
    for case, both, why in PAIRS:
        yield of(f"tar {case}", why, *(block(name.encode(), PICTURE) for name in both))


def _link(name: bytes, to: bytes) -> bytes:
    return block(name, kind=b"2", link=to)


def links() -> Iterator[Hostile]:
    """A link, and a member that is written through it."""
    way = _link(b"way", b"../outside"), block(b"way/new", PICTURE)
    yield of("tar link", "symbolic link", *way, escapes=True)
    chain = _link(b"a", b".."), _link(b"b", b"a/outside"), block(b"b/new", PICTURE)
    yield of("tar chain of links", "symbolic link", *chain, escapes=True)

    def hard(outside: Path) -> bytes:
        victim = block(b"way", kind=b"1", link=bytes(outside / "victim"))
        return tarred(victim, block(b"way", PICTURE))

    yield Hostile("tar hard link", "hard link", hard, escapes=True)


def kinds() -> Iterator[Hostile]:
    """A member that is neither a file nor a folder."""
    yield of("tar character device", "character device", block(PNG, kind=b"3"))
    yield of("tar block device", "block device", block(PNG, kind=b"4"))
    yield of("tar FIFO", "FIFO", block(PNG, kind=b"6"))
    yield of("tar sparse", "sparse", block(PNG, kind=b"S"))
    yield of("tar unknown kind", "neither a file nor a folder", block(PNG, kind=b"Z"))
    yield of("tar folder with a size", "has a size", block(b"train/", PICTURE, b"5"))


def extended() -> Iterator[Hostile]:
    """An extended header that changes the next member, or that is damaged."""
    outside = "../outside/new"
    yield of("tar renamed", "renames it", pax(path=outside), GOOD, escapes=True)
    long_name = pax(path="../outside/" + "n" * 100)
    yield of("tar long dotdot", r"'\.\.'", long_name, GOOD, escapes=True)
    yield of("tar all renamed", "sets path", pax(b"g", path=outside), GOOD, escapes=True)
    yield of("tar resized", "gives it 1 bytes", pax(size="1"), GOOD)
    yield of("tar pax size of no number", "has the size b'0x10'", pax(size="0x10"), GOOD)
    yield of("tar pax link", "a link", pax(linkpath="../outside"), GOOD)
    sparse = pax(GNU__sparse__major="1", GNU__sparse__minor="0")
    yield of("tar pax sparse", "sparse", sparse, GOOD)
    yield of("tar damaged pax", "damaged", block(b"p", b"9999 path=x\n", b"x"), GOOD)
    yield of("tar pax twice", "'path' twice", block(b"p", b"9 path=x\n9 path=y\n", b"x"), GOOD)
    yield of("tar two extended headers", "two extended", pax(path="x"), pax(path="y"), GOOD)
    yield of("tar extended for nothing", "behind an extended", GOOD, pax(path="x"))
    huge = tarred(block(b"p", bytes(32 * MIB), b"x"), GOOD)
    yield Hostile("tar huge pax", "extended header has", gzip.compress(huge, 9))


def _long_link(data: bytes, kind: bytes = b"L", **options: bytes) -> bytes:
    return block(b"././@LongLink", data, kind, **options)


def gnu() -> Iterator[Hostile]:
    """What GNU tar adds to the format."""
    renamed = _long_link(b"../outside/new\0", magic=OLD_GNU)
    yield of("tar GNU name", "renames it", renamed, GOOD, escapes=True)
    with_nul = _long_link(b"n" * 101 + b"\0../outside/new", magic=OLD_GNU)
    yield of("tar GNU name with NUL", "long name goes on", with_nul, GOOD)
    yield of("tar GNU link name", "a link", _long_link(b"x\0", b"K"), GOOD)
    fields = block(b"a", magic=OLD_GNU, more=b"../outside")
    yield of("tar fields of old GNU", "not every reader", fields)


def headers() -> Iterator[Hostile]:
    """A header of no known format, with a size that is no octal number, or damaged."""
    yield of("tar of no known kind", "no known kind", block(PNG, magic=b"tar\0"))
    base256 = b"\x80".ljust(11, b"\0") + b"\x30"
    yield of("tar base-256 size", "octal", block(PNG, PICTURE, size=base256))
    yield of("tar negative size", "octal", block(PNG, PICTURE, size=b"-0000000060\0"))
    damaged = GOOD.replace(b"0000644", b"0000600", 1)
    yield of("tar wrong checksum", "header is damaged", GOOD, damaged)


def ends() -> Iterator[Hostile]:
    """A tar without its end, or with more behind it."""
    yield Hostile("tar without an end", "truncated", tarred(GOOD, end=b""))
    yield Hostile("tar cut in a member", "truncated", GOOD[:530])
    two = tarred(GOOD) + tarred(block(b"../outside/new"))
    yield Hostile("tar after a tar", "follows the end", two)


def streams() -> Iterator[Hostile]:
    """A compressed stream that is cut, damaged, followed by more, or costly to read."""
    packed = gzip.compress(tarred(GOOD))
    yield Hostile("tar.gz truncated", "truncated", packed[:-9])
    yield Hostile("tar.gz with more", "follows its end", packed + b"more")
    flipped = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    yield Hostile("tar.gz of a wrong checksum", "damaged", flipped)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    large = lzma.compress(tarred(GOOD), filters=filters)
    yield Hostile("tar.xz of a large dictionary", "damaged.*emory", large)


def bombs() -> Iterator[Hostile]:
    """Small archives that unpack to much more."""
    bomb = tarred(block(PNG, bytes(32 * MIB)))
    yield Hostile("tar.gz bomb", "200 times", gzip.compress(bomb))
    yield Hostile("tar.bz2 bomb", "200 times", bz2.compress(bomb))
    yield Hostile("tar.xz bomb", "200 times", lzma.compress(bomb))
    small = (block(b"train/a/%03d.png" % number, bytes(MIB)) for number in range(32))
    yield Hostile("tar.gz bomb in parts", "100 times", gzip.compress(tarred(*small)))
    behind = tarred(GOOD, end=bytes(32 * MIB))
    yield Hostile("tar.gz bomb behind the end", "100 times", gzip.compress(behind))


def nothing() -> Iterator[Hostile]:
    """What holds no file, or is no archive."""
    yield of("tar empty", "no file")
    yield Hostile("nothing", "no archive", b"")
    yield Hostile("a picture", "no archive", PICTURE.ljust(2048, b"\0"))
