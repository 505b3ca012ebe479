"""Zips whose whole lies: what belongs to no member, and directories and ends that are false."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.untrusted.archive.hostile.case import Hostile
from tests.untrusted.archive.hostile.zips import PART, PNG, SECOND, of
from tests.untrusted.archive.zip_parts import Part, zip64, zip64_end, zip_body, zip_end, zipped


def cases() -> Iterator[Hostile]:
    """Every zip whose whole lies."""
    for kind in (hidden, cut, directories, long_ends, several_disks):
        yield from kind()


def hidden() -> Iterator[Hostile]:
    """Bytes that no member accounts for."""
    nobody, whole = "belongs to no member", zipped(PART)
    yield of("zip hidden member", nobody, PART, Part(SECOND, listed=False), Part(b"2.png"))
    yield of("zip behind a member", nobody, Part(PNG, behind=b"more"))
    yield Hostile("zip behind the end", "follows its end", whole + b"more")
    yield Hostile("zip before the beginning", "no archive", b"#!/bin/sh\n" + whole)
    two = whole + zipped(PART, start=len(whole))
    yield Hostile("zip behind a zip", "something lies before it", two)
    comment = zipped(Part(b"../outside/new"))
    yield Hostile("zip in a comment", "directory", zipped(PART, comment=comment))


def cut() -> Iterator[Hostile]:
    """A zip of which something is missing."""
    yield Hostile("zip truncated", "truncated", zipped(PART)[:-30])
    yield Hostile("zip without its beginning", "no archive", zipped(PART)[20:])
    headless = Part(SECOND, local_magic=b"PK\3\3")
    yield of("zip without own header", "no header of its own", PART, headless)
    yield Hostile("zip empty", "empty", zip_end(0, 0, 0))


def directories() -> Iterator[Hostile]:
    """A directory that is elsewhere, damaged, or of another length."""
    body, entry = zip_body(PART)
    size, start = len(entry), len(body)
    moved = body + entry + zip_end(1, size, start - 1)
    yield Hostile("zip of a moved directory", "where its end says", moved)
    yield Hostile("zip of fewer", "fewer members", body + entry + zip_end(2, size, start))
    yield Hostile("zip of more", "more members", body + entry * 2 + zip_end(1, 2 * size, start))
    damaged = zipped(PART).replace(b"PK\1\2", b"PK\1\1")
    yield Hostile("zip of a damaged directory", "directory is damaged", damaged)
    two = _two_directories()
    yield Hostile("zip of another directory", "different directories", two, escapes=True)


def _two_directories() -> bytes:
    """The plain end leads to one directory, the zip64 end to another."""
    body, directory = zip_body(PART)
    before = body + directory
    other_body, other = zip_body(Part(b"../outside/new", b"evil"), start=len(before))
    before += other_body
    long_end = zip64_end(1, len(other), len(before))
    return before + other + long_end + zip_end(1, len(directory), len(body))


def long_ends() -> Iterator[Hostile]:
    """A zip64 end that counts too many members, or that is not where its locator says."""
    yield Hostile("zip of too many", "holds 400,000 members", zip64(PART, 400_000))
    yield Hostile("zip64 missed", "does not lie where it must", zip64(PART, shift=1))
    yield Hostile("zip64 of another length", "zip64 end is damaged", zip64(PART, length=45))


def several_disks() -> Iterator[Hostile]:
    """One part of an archive in several parts."""
    body, directory = zip_body(PART)
    end = zip_end(1, len(directory), len(body), disk=1)
    yield Hostile("zip in parts", "several", body + directory + end)
    yield of("zip of a member elsewhere", "another part", Part(PNG, disk=1))
    elsewhere = struct.pack("<2HQL", 1, 12, 0, 1)
    long_field = Part(b"a", offset=0xFFFFFFFF, extra=elsewhere, disk=0xFFFF)
    yield of("zip64 of a member elsewhere", "another part", long_field)
