"""An unpacker that hostile archives fool, and how to see what it did."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path


def naive(archive: Path, into: Path) -> None:
    """Join every name to the folder and write, following links.

    This is what an unpacker does if nobody thought about hostile archives.
    """
    into.mkdir()
    unpack = _naive_zip if zipfile.is_zipfile(archive) else _naive_tar
    unpack(archive, into)


def _naive_zip(archive: Path, into: Path) -> None:
    raw = archive.read_bytes()
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            data, path = _member(raw, info), into / info.filename
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            _write(path, data, soft=data if is_link else None)


def _member(raw: bytes, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, wherever its header points to.

    ``ZipFile.read`` of a patched Python refuses members that overlap, and would not be naive.
    """
    name, extra = struct.unpack_from("<2H", raw, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    packed = raw[start : start + info.compress_size]
    return zlib.decompress(packed, -15) if info.compress_type == zipfile.ZIP_DEFLATED else packed


def _naive_tar(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as file:
        for member in file:
            content = file.extractfile(member) if member.isreg() else None
            soft = member.linkname.encode() if member.issym() else None
            hard = into / member.linkname if member.islnk() else None
            _write(into / member.name, content.read() if content else b"", soft, hard)


def _write(path: Path, data: bytes, soft: bytes | None = None, hard: Path | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if soft is not None:
        os.symlink(soft, bytes(path))
    elif hard is not None:
        os.link(hard, path)
    else:
        path.write_bytes(data)


def listing(folder: Path) -> dict[str, tuple[int, int, int, bytes | None]]:
    """Everything below a folder and the folder itself: mode, size, time and bytes."""
    entries = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else None
        entries[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, content)
    return entries
