"""Archives that must not be unpacked, made byte by byte, and an unpacker that is naive enough to be
fooled by them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(40)
MIB = 2**20

# -- zip, with every field open to lies --------------------------------------------------------


@dataclass
class Part:
    """One member of a zip. What is None is true; anything else is written instead."""

    name: bytes
    data: bytes = PICTURE
    deflate: bool = True
    packed: bytes | None = None
    method: int | None = None
    flags: int = 0
    mode: int = 0
    size: int | None = None
    crc: int | None = None
    extra: bytes = b""
    own_name: bytes | None = None  # in the header before the data
    own_size: int | None = None
    own_method: int | None = None
    own_extra: bytes = b""
    own_magic: bytes = b"PK\3\4"
    disk: int = 0
    offset: int | None = None
    listed: bool = True
    behind: bytes = b""

    def __post_init__(self):
        if self.packed is None:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            self.packed = packer.compress(self.data) + packer.flush() if self.deflate else self.data
        self.method = (8 if self.deflate else 0) if self.method is None else self.method
        self.size = len(self.data) if self.size is None else self.size
        self.crc = zlib.crc32(self.data) if self.crc is None else self.crc

    def local(self):
        name = self.name if self.own_name is None else self.own_name
        size = self.size if self.own_size is None else self.own_size
        method = self.method if self.own_method is None else self.own_method
        numbers = (
            20,
            self.flags,
            method,
            0,
            0x21,
            self.crc,
            len(self.packed),
            size,
            len(name),
            len(self.own_extra),
        )
        return self.own_magic + struct.pack("<5H3L2H", *numbers) + name + self.own_extra

    def central(self, offset):
        numbers = (
            0x0314,
            20,
            self.flags,
            self.method,
            0,
            0x21,
            self.crc,
            len(self.packed),
            self.size,
        )
        place = offset if self.offset is None else self.offset
        tail = (len(self.name), len(self.extra), 0, self.disk, 0, self.mode << 16, place)
        return (
            b"PK\1\2"
            + struct.pack("<6H3L", *numbers)
            + struct.pack("<5H2L", *tail)
            + self.name
            + self.extra
        )


def zip_end(count, size, start, comment=b"", disk=0):
    return (
        b"PK\5\6"
        + struct.pack("<4H2LH", disk, 0, count, count, size, start, len(comment))
        + comment
    )


def zip_body(parts, start=0):
    """The members' bytes from ``start`` of the file on, and the directory of those that are
    listed."""
    body, directory = b"", b""
    for part in parts:
        if part.listed:
            directory += part.central(start + len(body))
        body += part.local() + part.packed + part.behind
    return body, directory


def zipped(*parts, comment=b""):
    body, directory = zip_body(parts)
    return (
        body
        + directory
        + zip_end(sum(part.listed for part in parts), len(directory), len(body), comment)
    )


# -- tar, the same -----------------------------------------------------------------------------


def block(name, data=b"", kind=b"0", *, link=b"", size=None, magic=b"ustar\x0000", more=b""):
    """A header and its data. more: what stands from byte 345 on."""
    size = b"%011o\0" % len(data) if size is None else size
    head = (
        name.ljust(100, b"\0")
        + b"0000644\0" * 3
        + size
        + b"00000000000\0"
        + b" " * 8
        + kind
        + link.ljust(100, b"\0")
    )
    head = (head + magic.ljust(88, b"\0") + more).ljust(512, b"\0")
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + data + bytes(-len(data) % 512)


def tarred(*blocks, end=bytes(1024)):
    return b"".join(blocks) + end


def pax(kind=b"x", **records):
    body = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        body += str(length).encode() + record
    return block(b"PaxHeaders/0", body, kind)


# -- the archives ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """why: what the refusal must say. escapes: the naive unpacker writes outside its folder."""

    name: str
    make: Callable[[Path], bytes]
    why: str
    escapes: bool = False


@dataclass
class _Collection:
    found: list[Hostile] = field(default_factory=list)

    def add(self, name, why, make, *, escapes=False):
        """make: bytes, or a function that is given the folder outside."""
        self.found.append(Hostile(name, make if callable(make) else lambda _: make, why, escapes))


def link(name=b"way", to=b"../outside"):
    return Part(name, to, mode=stat.S_IFLNK | 0o777)


def zero_blocks(count):
    """``count`` times 16 MiB of zeros, deflated to some 16 KB each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * count + packer.flush()


def overlapping(count=40):
    """Each member's compressed bytes quote the next one's header and go on into its bytes: count
    members, one kernel."""
    parts = [Part(b"train/a/%03d.png" % (count - 1), bytes(2**18))]
    for number in reversed(range(count - 1)):
        following = parts[0]
        head = following.local()
        quoted = b"\0" + struct.pack("<2H", len(head), len(head) ^ 0xFFFF) + head
        parts.insert(
            0,
            Part(
                b"train/a/%03d.png" % number,
                head + following.data,
                packed=quoted + following.packed,
            ),
        )
    body, directory, offset = parts[0].local() + parts[0].packed, b"", 0
    for part in parts:
        directory += part.central(offset)
        offset += len(part.local()) + 5
    return body + directory + zip_end(count, len(directory), len(body))


def two_directories():
    """The plain end leads to one directory, the zip64 end to another."""
    first, listed = zip_body([Part(b"train/a/0.png")])
    second, other = zip_body([Part(b"../outside/new", b"evil")], len(first) + len(listed))
    start = len(first) + len(listed) + len(second)
    end64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1, 1, len(other), start)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, start + len(other), 1)
    return first + listed + second + other + end64 + locator + zip_end(1, len(listed), len(first))


def archives():
    """Every hostile archive."""
    zips, tars = _Collection(), _Collection()
    name_cases = [
        ("dotdot", b"../outside/new", r"'\.\.'", True),
        ("dotdot below", b"train/../../outside/new", r"'\.\.'", True),
        ("dotdot at the end", b"train/a/..", r"'\.\.'", False),
        ("dot", b"train/./0.png", r"'\.' for one", False),
        ("empty part", b"train//0.png", "empty part", False),
        ("drive", b"C:/outside/new", "drive letter", False),
        ("drive below", b"train/c:new", "drive letter", False),
        ("backslash", b"..\\outside\\new", "backslash", False),
        ("escape", b"train/\x1b]0;x\x07.png", r"control character U\+001B", False),
        ("newline", b"train/a\n0.png", r"control character U\+000A", False),
        ("wide dots", "train/\uff0e\uff0e/new".encode(), r"'\.\.'", False),
        ("reversed", "train/a\u202egnp.0".encode(), r"U\+202E", False),
        ("deep", b"d/" * 17 + b"0.png", "16 folders deep", False),
        ("long part", b"n" * 256, "more than 255 bytes", False),
    ]
    for case, name, why, escapes in name_cases:
        zips.add(f"zip {case}", why, zipped(Part(name)), escapes=escapes)
        if len(name) <= 100:
            tars.add(f"tar {case}", why, tarred(block(name, PICTURE)), escapes=escapes)
    zips.add("zip long", "name has 1,056 bytes", zipped(Part(b"/".join([b"n" * 150] * 7))))
    zips.add("zip absolute", "absolute", lambda out: zipped(Part(bytes(out / "new"))), escapes=True)
    zips.add("zip NUL", r"U\+0000", zipped(Part(b"train/a/0.png\0.txt")))
    zips.add("zip wrong UTF-8", "not in UTF-8", zipped(Part(b"train/\xff.png", flags=1 << 11)))
    zips.add("zip link", "symbolic link", zipped(link(), Part(b"way/new")), escapes=True)
    zips.add("zip FIFO", "FIFO", zipped(Part(b"train/a/0.png", b"", mode=stat.S_IFIFO | 0o644)))
    zips.add("zip device", "device", zipped(Part(b"train/a/0.png", b"", mode=stat.S_IFBLK | 0o644)))
    zips.add(
        "zip hidden folder",
        "file by its name",
        zipped(Part(b"train/a", b"", mode=stat.S_IFDIR | 0o755)),
    )
    zips.add("zip full folder", "folder, and has a size", zipped(Part(b"train/a/")))
    for case, names, why in (
        ("twice", (b"train/a/0.png", b"train/a/0.png"), "twice"),
        ("case", (b"train/a/0.png", b"train/A/1.png"), "same name as"),
        (
            "normalisation",
            ("train/\u00e9/0.png".encode(), "train/e\u0301/1.png".encode()),
            "same name as",
        ),
        ("last dot", (b"train/a/0.png", b"train/a/0.png."), "same name as"),
        ("file as folder", (b"train/a", b"train/a/0.png"), "needs a folder"),
        (
            "folder as file",
            (b"train/a/0.png", b"train/a"),
            "file where another member needs a folder",
        ),
    ):
        zips.add(f"zip {case}", why, zipped(*(Part(name) for name in names)))
        tars.add(f"tar {case}", why, tarred(*(block(name, PICTURE) for name in names)))
    zips.add("zip encrypted", "it is encrypted;", zipped(Part(b"train/a/0.png", flags=1)))
    zips.add("zip strongly encrypted", "flags 0x0040", zipped(Part(b"train/a/0.png", flags=1 << 6)))
    zips.add("zip unknown method", "method is 14", zipped(Part(b"train/a/0.png", method=14)))
    zips.add(
        "zip own name",
        "calls it 'train/b/0.png'",
        zipped(Part(b"train/a/0.png", own_name=b"train/b/0.png")),
    )
    zips.add("zip own size", "differ in its size", zipped(Part(b"train/a/0.png", own_size=7)))
    zips.add(
        "zip less than declared",
        "unpacks to 48 bytes and declares 49",
        zipped(Part(b"train/a/0.png", size=49)),
    )
    zips.add(
        "zip more than declared", "more than the 47 bytes", zipped(Part(b"train/a/0.png", size=47))
    )
    zips.add(
        "zip wrong size stored",
        "not compressed, and yet",
        zipped(Part(b"train/a/0.png", deflate=False, size=49)),
    )
    zips.add("zip wrong checksum", "checksum", zipped(Part(b"train/a/0.png", crc=1)))
    zips.add("zip damaged data", "damaged", zipped(Part(b"train/a/0.png", packed=b"\xff" * 20)))
    part = Part(b"train/a/0.png")
    zips.add(
        "zip data behind data",
        "follows the end",
        zipped(Part(b"train/a/0.png", packed=part.packed + b"more")),
    )
    zips.add("zip cut data", "too early", zipped(Part(b"train/a/0.png", packed=part.packed[:-3])))
    zips.add("zip bomb", "200 times", zipped(Part(b"train/a/0.png", bytes(16 * MIB))))
    zips.add(
        "zip bomb in parts",
        "100 times",
        zipped(*(Part(b"train/a/%03d.png" % k, bytes(MIB)) for k in range(32))),
    )
    zips.add(
        "zip lying bomb",
        "more than the 1,000 bytes",
        zipped(Part(b"0.png", packed=zero_blocks(2), size=1000)),
    )
    zips.add("zip overlap", "overlaps", overlapping())
    zips.add("zip same bytes", "overlaps", zipped(part, Part(b"train/a/1.png", offset=0)))
    zips.add(
        "zip hidden member",
        "belongs to no member",
        zipped(part, Part(b"train/a/1.png", listed=False), Part(b"2.png")),
    )
    zips.add(
        "zip behind a member",
        "belongs to no member",
        zipped(Part(b"train/a/0.png", behind=b"more")),
    )
    zips.add("zip behind the end", "follows its end", zipped(part) + b"more")
    zips.add("zip before the beginning", "no archive", b"#!/bin/sh\n" + zipped(part))
    zips.add(
        "zip behind a zip",
        "something lies before it",
        zipped(part) + zip_shifted(zipped(part), part),
    )
    zips.add("zip in a comment", "directory", zipped(part, comment=zipped(Part(b"../outside/new"))))
    zips.add("zip truncated", "truncated", zipped(part)[:-30])
    zips.add("zip without its beginning", "no archive", zipped(part)[20:])
    zips.add(
        "zip renamed by a field",
        "renames it",
        zipped(Part(b"0.png", extra=second_name(b"0.png", b"../outside/new"))),
    )
    zips.add("zip of another directory", "different directories", two_directories(), escapes=True)
    sizes, elsewhere = struct.pack("<2HQ", 1, 8, 10**12), struct.pack("<2HQL", 1, 12, 0, 1)
    zips.add(
        "zip64 size beside a size", "other numbers", zipped(Part(b"train/a/0.png", extra=sizes))
    )
    zips.add(
        "zip64 size missing", "sizes are missing", zipped(Part(b"train/a/0.png", size=0xFFFFFFFF))
    )
    huge = zipped(Part(b"train/a/0.png", b"", size=0xFFFFFFFF, own_size=0xFFFFFFFF, extra=sizes))
    zips.add("zip64 of a terabyte", "200 times", huge)
    zips.add("zip of too many", "holds 400,000 members", zip64(*zip_body([part]), 400_000))
    zips.add("zip64 missed", "does not lie where it must", zip64(*zip_body([part]), 1, shift=1))
    zips.add(
        "zip64 of another length", "zip64 end is damaged", zip64(*zip_body([part]), 1, length=45)
    )
    body, directory = zip_body([part])
    zips.add(
        "zip in parts", "several", body + directory + zip_end(1, len(directory), len(body), disk=1)
    )
    zips.add("zip of a member elsewhere", "another part", zipped(Part(b"train/a/0.png", disk=1)))
    zips.add(
        "zip64 of a member elsewhere",
        "another part",
        zipped(Part(b"a", offset=0xFFFFFFFF, extra=elsewhere, disk=0xFFFF)),
    )
    zips.add(
        "zip of a moved directory",
        "where its end says",
        body + directory + zip_end(1, len(directory), len(body) - 1),
    )
    zips.add(
        "zip of fewer", "fewer members", body + directory + zip_end(2, len(directory), len(body))
    )
    zips.add(
        "zip of more",
        "more members",
        body + directory * 2 + zip_end(1, 2 * len(directory), len(body)),
    )
    zips.add(
        "zip of a damaged directory",
        "directory is damaged",
        zipped(part).replace(b"PK\1\2", b"PK\1\1"),
    )
    zips.add(
        "zip without own header",
        "no header of its own",
        zipped(part, Part(b"train/a/1.png", own_magic=b"PK\3\3")),
    )
    zips.add(
        "zip own method", "another kind of member", zipped(Part(b"train/a/0.png", own_method=0))
    )
    zips.add(
        "zip64 own size", "zip64 field and its own", zipped(Part(b"train/a/0.png", own_extra=sizes))
    )
    zips.add(
        "zip cut field", "extra field is damaged", zipped(Part(b"train/a/0.png", extra=sizes[:-1]))
    )
    zips.add(
        "zip fields behind fields",
        "extra field is damaged",
        zipped(Part(b"train/a/0.png", extra=b"abc")),
    )
    flagged = Part(b"0.png", flags=1 << 11, extra=second_name(b"0.png", b"\xff"))
    zips.add("zip second name of no text", "second name is not in UTF-8", zipped(flagged))
    accented = "\u00e9.png".encode()
    renamed = Part(accented, flags=1 << 11, extra=second_name(accented, b"x.png"))
    zips.add("zip renamed where it need not be", "renames it", zipped(renamed))
    zips.add("zip empty", "empty", zip_end(0, 0, 0))

    good = block(b"train/a/0.png", PICTURE)
    tars.add(
        "tar absolute",
        "absolute",
        lambda out: tarred(block(bytes(out / "new"), PICTURE)),
        escapes=True,
    )
    way = block(b"way", kind=b"2", link=b"../outside")
    tars.add("tar link", "symbolic link", tarred(way, block(b"way/new", PICTURE)), escapes=True)
    chain = (
        block(b"a", kind=b"2", link=b".."),
        block(b"b", kind=b"2", link=b"a/outside"),
        block(b"b/new", PICTURE),
    )
    tars.add("tar chain of links", "symbolic link", tarred(*chain), escapes=True)

    def hard(out):
        return tarred(block(b"way", kind=b"1", link=bytes(out / "victim")), block(b"way", PICTURE))

    tars.add("tar hard link", "hard link", hard, escapes=True)
    for case, kind in (
        ("character device", b"3"),
        ("block device", b"4"),
        ("FIFO", b"6"),
        ("sparse", b"S"),
    ):
        tars.add(f"tar {case}", case, tarred(block(b"train/a/0.png", kind=kind)))
    tars.add(
        "tar unknown kind",
        "neither a file nor a folder",
        tarred(block(b"train/a/0.png", kind=b"Z")),
    )
    tars.add("tar NUL", "behind a NUL", tarred(block(b"train/a/0.png\0.txt", PICTURE)))
    tars.add("tar wrong UTF-8", "not in UTF-8", tarred(block(b"train/\xff.png", PICTURE)))
    tars.add("tar folder with a size", "has a size", tarred(block(b"train/", PICTURE, b"5")))
    tars.add("tar renamed", "renames it", tarred(pax(path="../outside/new"), good), escapes=True)
    tars.add(
        "tar long dotdot",
        r"'\.\.'",
        tarred(pax(path="../outside/" + "n" * 100), good),
        escapes=True,
    )
    tars.add("tar resized", "gives it 1 bytes", tarred(pax(size="1"), good))
    tars.add("tar pax link", "a link", tarred(pax(linkpath="../outside"), good))
    tars.add(
        "tar pax sparse",
        "sparse",
        tarred(pax(GNU__sparse__major="1", GNU__sparse__minor="0"), good),
    )
    tars.add(
        "tar all renamed", "sets path", tarred(pax(b"g", path="../outside/new"), good), escapes=True
    )
    tars.add("tar damaged pax", "damaged", tarred(block(b"p", b"9999 path=x\n", b"x"), good))
    tars.add(
        "tar pax twice", "'path' twice", tarred(block(b"p", b"9 path=x\n9 path=y\n", b"x"), good)
    )
    tars.add("tar two extended headers", "two extended", tarred(pax(path="x"), pax(path="y"), good))
    tars.add("tar extended for nothing", "behind an extended", tarred(good, pax(path="x")))
    long_name = block(b"././@LongLink", b"../outside/new\0", b"L", magic=b"ustar  ")
    tars.add("tar GNU name", "renames it", tarred(long_name, good), escapes=True)
    hidden = block(b"././@LongLink", b"n" * 101 + b"\0../outside/new", b"L", magic=b"ustar  ")
    tars.add("tar GNU name with NUL", "long name goes on", tarred(hidden, good))
    tars.add(
        "tar of no known kind", "no known kind", tarred(block(b"train/a/0.png", magic=b"tar\0"))
    )
    tars.add("tar pax size of no number", "has the size b'0x10'", tarred(pax(size="0x10"), good))
    tars.add("tar GNU link name", "a link", tarred(block(b"././@LongLink", b"x\0", b"K"), good))
    tars.add(
        "tar huge pax",
        "extended header has",
        gzip.compress(tarred(block(b"p", bytes(32 * MIB), b"x"), good), 9),
    )
    tars.add(
        "tar fields of old GNU",
        "not every reader",
        tarred(block(b"a", magic=b"ustar  ", more=b"../outside")),
    )
    tars.add(
        "tar base-256 size",
        "octal",
        tarred(block(b"train/a/0.png", PICTURE, size=b"\x80".ljust(11, b"\0") + b"\x30")),
    )
    tars.add(
        "tar negative size",
        "octal",
        tarred(block(b"train/a/0.png", PICTURE, size=b"-0000000060\0")),
    )
    tars.add(
        "tar wrong checksum",
        "header is damaged",
        tarred(good, good.replace(b"0000644", b"0000600", 1)),
    )
    tars.add("tar without an end", "truncated", tarred(good, end=b""))
    tars.add("tar cut in a member", "truncated", good[:530])
    tars.add("tar after a tar", "follows the end", tarred(good) + tarred(block(b"../outside/new")))
    tars.add("tar.gz truncated", "truncated", gzip.compress(tarred(good))[:-9])
    tars.add("tar.gz with more", "follows its end", gzip.compress(tarred(good)) + b"more")
    tars.add("tar.gz of a wrong checksum", "damaged", flipped(gzip.compress(tarred(good)), -8))
    tars.add(
        "tar.gz bomb", "200 times", gzip.compress(tarred(block(b"train/a/0.png", bytes(32 * MIB))))
    )
    tars.add(
        "tar.bz2 bomb", "200 times", bz2.compress(tarred(block(b"train/a/0.png", bytes(32 * MIB))))
    )
    tars.add(
        "tar.xz bomb", "200 times", lzma.compress(tarred(block(b"train/a/0.png", bytes(32 * MIB))))
    )
    small = (block(b"train/a/%03d.png" % number, bytes(MIB)) for number in range(32))
    tars.add("tar.gz bomb in parts", "100 times", gzip.compress(tarred(*small)))
    tars.add(
        "tar.gz bomb behind the end", "100 times", gzip.compress(tarred(good, end=bytes(32 * MIB)))
    )
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    tars.add(
        "tar.xz of a large dictionary",
        "damaged.*emory",
        lzma.compress(tarred(good), filters=filters),
    )
    tars.add("tar empty", "no file", tarred())
    tars.add("nothing", "no archive", b"")
    tars.add("a picture", "no archive", PICTURE.ljust(2048, b"\0"))
    return zips.found + tars.found


def zip_shifted(whole, part):
    """The same zip for a place behind ``whole``, with offsets from the beginning of the file."""
    body, directory = zip_body([part], len(whole))
    return body + directory + zip_end(1, len(directory), len(whole) + len(body))


def second_name(raw, other):
    body = b"\1" + struct.pack("<L", zlib.crc32(raw)) + other
    return struct.pack("<2H", 0x7075, len(body)) + body


def zip64(body, directory, count, *, shift=0, length=44):
    """A zip with the longer end. shift: how far its locator misses it; length: what it says of its
    own."""
    end64 = b"PK\6\6" + struct.pack(
        "<Q2H2L4Q", length, 45, 45, 0, 0, count, count, len(directory), len(body)
    )
    locator = b"PK\6\7" + struct.pack("<LQL", 0, len(body) + len(directory) + shift, 1)
    return body + directory + end64 + locator + zip_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def flipped(data, position):
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


# -- what must not happen ----------------------------------------------------------------------


def naive(archive, into):
    """Join every name to the folder and write, following links: what an unpacker does that nobody
    thought about."""
    into.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                data, mode = file.read(info), stat.S_IFMT(info.external_attr >> 16)
                _naive_write(
                    into / info.filename, data, data if mode == stat.S_IFLNK else None, None
                )
    else:
        with tarfile.open(archive) as file:
            for member in file:
                data = file.extractfile(member).read() if member.isreg() else b""
                soft = member.linkname.encode() if member.issym() else None
                _naive_write(
                    into / member.name,
                    data,
                    soft,
                    into / member.linkname if member.islnk() else None,
                )


def _naive_write(path, data, soft, hard):
    path.parent.mkdir(parents=True, exist_ok=True)
    if soft is not None:
        os.symlink(soft, bytes(path))
    elif hard is not None:
        os.link(hard, path)
    else:
        path.write_bytes(data)


def listing(folder):
    """Everything below a folder and the folder itself: kind, mode, size, time and bytes."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        bytes_of = path.read_bytes() if stat.S_ISREG(facts.st_mode) else None
        found[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, bytes_of)
    return found
