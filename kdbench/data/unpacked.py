"""Archives unpacked into the cache: a folder per archive, named by its SHA-256, with a record of
what it held when new."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from kdbench.data import cache
from kdbench.errors import IntegrityError
from kdbench.untrusted.archive.limits import DEFAULT, Limits
from kdbench.untrusted.archive.unpack import leftovers, unpack


def unpacked(archive: Path, cache_dir: Path, limits: Limits = DEFAULT) -> Path:
    """The folder with the archive's files; unpacked where it is not there, or is not what it was.

    Two runs wait for each other. Raises IntegrityError for an archive that is refused or changes
    meanwhile, and OSError.
    """
    facts, digest = _facts(archive), _sha256(archive)
    target = cache_dir / "archives" / digest
    with cache.one_at_a_time(target) as alone:
        if _intact(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in (*(leftovers(target) if alone else ()), target):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            unpack(archive, target, limits)
        except OSError:
            # Where no lock can be had another run may have been faster.
            if not _intact(target):
                raise
        if _facts(archive) != facts:
            shutil.rmtree(target, ignore_errors=True)
            raise IntegrityError(
                f"archive {archive} changed while it was unpacked; try again when it is whole"
            )
        _record(target).write_text(_listing(target))
    return target


def _facts(archive: Path) -> tuple[int, int, int]:
    found = archive.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _sha256(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(folder: Path) -> Path:
    return folder.with_suffix(".listing")


def _intact(folder: Path) -> bool:
    """Whether the files are those that were unpacked: a cache that someone tidied must not pass for
    a smaller dataset."""
    try:
        return _record(folder).read_text() == _listing(folder)
    except OSError:
        return False


def _listing(folder: Path) -> str:
    """SHA-256 over the names, sizes and times of all files. Damage within one shows when it is
    decoded, or in the digests."""
    found = hashlib.sha256()
    for where, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            facts = os.lstat(os.path.join(where, name))
            below_folder = os.path.relpath(where, folder)
            line = f"{below_folder}\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            found.update(line.encode())
    return found.hexdigest()
