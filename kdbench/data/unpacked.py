"""Archives unpacked into the cache.

Each archive has a folder, named by the archive's SHA-256. A record beside the folder says what was
in it when it was new.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from kdbench.data import cache
from kdbench.errors import IntegrityError
from kdbench.untrusted.archive.limits import DEFAULT, ArchiveLimits
from kdbench.untrusted.archive.unpack import leftovers, unpack
from kdbench.untrusted.files import chunks, open_regular


def unpacked(archive: Path, cache_dir: Path, limits: ArchiveLimits = DEFAULT) -> Path:
    """The folder with the archive's files.

    The archive is unpacked where the folder is absent or no longer what it was. Of two runs one
    unpacks, and the other waits.

    Raises:
        IntegrityError: the archive is refused, or changes meanwhile.
        OSError: the archive cannot be read, or the cache cannot be written.
    """
    facts, digest = _facts(archive), _sha256(archive)
    target = cache_dir / "archives" / digest
    with cache.one_at_a_time(target) as alone:
        if _intact(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # Without the lock another run may be unpacking right now, and a leftover may be its folder.
        for folder in (*(leftovers(target) if alone else ()), target):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            unpack(archive, target, limits)
        except OSError:
            # Without the lock another run may have been faster, and its folder is as good.
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
    stat = archive.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _sha256(archive: Path) -> str:
    sha256 = hashlib.sha256()
    with open_regular(archive) as file:
        for chunk in chunks(file):
            sha256.update(chunk)
    return sha256.hexdigest()


def _record(folder: Path) -> Path:
    return folder.with_suffix(".listing")


def _intact(folder: Path) -> bool:
    """Whether the files are those that were unpacked.

    Somebody may have tidied the cache, and what is left must not pass for a smaller dataset.
    """
    try:
        return _record(folder).read_text() == _listing(folder)
    except OSError:
        return False


def _listing(folder: Path) -> str:
    """SHA-256 over the names, sizes and times of all files.

    Damage inside a file shows when the file is decoded, or in the dataset's digests.
    """
    sha256 = hashlib.sha256()
    for where, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            facts = os.lstat(os.path.join(where, name))
            below_folder = os.path.relpath(where, folder)
            line = f"{below_folder}\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            # As the file system has it: a name need not be UTF-8.
            sha256.update(os.fsencode(line))
    return sha256.hexdigest()
