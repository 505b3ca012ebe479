"""Results that are computed once: a folder of artefacts, each under the SHA-256 of everything that
could change it.

    ROOT/vault.1234.../     whose name is secret, see kdbench.bench.store.vault
        objects/ab/abcd.../     manifest.json, and files such as model.safetensors
        work/abcd.../           notes on a stage in progress
        staging/                artefacts that are being written
        damaged/                what failed its check, put aside
        locks/                  one file a stage in progress, held by the run that computes it
        teachers/               names of imported teachers
        timings.jsonl           how long each stage took, for estimates
    ROOT/jobs/5678.../      the folder of a job, see kdbench.bench.run.folders

An artefact is copied to ``staging``, synced, and published by one rename: it is there whole or not
at all. Its files are hashed while they are copied. So the digests are those of the bytes that the
store has, whatever happens to the files that were copied. A row is not synced, since it is made
again of its measurements: a power cut may tear it. The manifest holds the SHA-256 of every file and
of itself, and nothing is used before it was compared. This finds damage. It does not find forgery:
whoever may write the vault can compute the digests anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from kdbench.bench.store.locks import holder, lock_warning
from kdbench.bench.store.manifest import MANIFEST, Manifest
from kdbench.bench.store.vault import check_private, make_vault, open_vault
from kdbench.errors import ConfigError, IntegrityError
from kdbench.untrusted.box import copy_file, remove_tree

#: Of the bytes of what kdbench itself has written.
NO_LIMIT = sys.maxsize


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_root() -> Path:
    """``$KDBENCH_STORE``, or ``store`` in the user's cache folder."""
    if folder := os.environ.get("KDBENCH_STORE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdbench")) / "store"


def _bytes(path: str) -> bytes | None:
    """What is in a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


class DamagedError(IntegrityError):
    """An artefact is not as it was written; it was put aside."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Store:
    """The store in a folder, which is made when something is first written."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (default_root() if root is None else root).expanduser().absolute()
        self._vault: Path | None = None
        self._objects = ""

    @property
    def vault(self) -> Path:
        """Where it keeps things. Where it has kept nothing yet, a folder that does not exist.

        Raises:
            ConfigError: another user may have changed it.
        """
        return self._remembered(open_vault) or self.root / "vault"

    def make_vault(self) -> Path:
        """As :attr:`vault`, made if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        vault = self._remembered(make_vault)
        assert vault is not None
        return vault

    def _remembered(self, find: Callable[[Path], Path | None]) -> Path | None:
        if self._vault is None:
            self._vault = find(self.root)
            self._objects = f"{self._vault}/objects" if self._vault is not None else ""
        return self._vault

    @property
    def jobs(self) -> Path:
        """Holds the folders of jobs."""
        return self.root / "jobs"

    def check_writable(self) -> None:
        """Raise ConfigError unless the folder can be made and written to, and by nobody else."""
        try:
            vault = self.make_vault()
            for folder in (self.jobs, *(vault / name for name in ("objects", "work", "locks"))):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_private(self.jobs)
            with self.scratch():
                pass
        except OSError as error:
            raise ConfigError(
                f"the store {self.root} cannot be written to ({error.strerror or error}); name "
                "another folder with --store"
            ) from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder in the store, for what is to be published. It is removed afterwards."""
        folder = self.make_vault() / "staging" / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            remove_tree(folder)

    def folder(self, key: str) -> Path:
        """Where the artefact is or would be."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        """The same as text: a run looks for hundreds of thousands, and a Path costs more than a
        look."""
        return f"{self._objects or self.vault / 'objects'}/{key[:2]}/{key}"

    def workspace(self, key: str) -> Path:
        """Notes on the stage while it is computed. No job may open it."""
        return self.vault / "work" / key

    def __iter__(self) -> Iterator[str]:
        """Every key, sorted."""
        for shelf in sorted((self.vault / "objects").glob("??")):
            if shelf.is_dir():  # a file there is not ours
                yield from sorted(entry.name for entry in shelf.iterdir() if entry.is_dir())

    # -- reading -------------------------------------------------------------------------------

    def find(self, key: str) -> Manifest | None:
        """The manifest, if the artefact is there and its manifest is whole; a damaged one is put
        aside. Files: see verified."""
        place = self._place(key)
        try:
            data = _bytes(f"{place}/{MANIFEST}")
            if data is None and os.path.exists(place):
                # It may have been published between the two looks: only one that is there first,
                # and then lacks it, lacks it.
                data = _bytes(f"{place}/{MANIFEST}")
                if data is None:
                    self.put_aside(key)
        except OSError:
            return None
        if data is None:
            return None
        try:
            manifest = Manifest.decoded(data)
            if manifest.key != key:
                raise ValueError("it belongs to another key")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.put_aside(key)
            return None
        return manifest

    def verified(self, key: str) -> Manifest | None:
        """As :meth:`find`, with every file's SHA-256 compared; an artefact that is not as it was
        written is put aside."""
        manifest = self.find(key)
        if manifest is None:
            return None
        folder = self.folder(key)
        for name, entry in manifest.files.items():
            path = folder / name
            try:
                whole = stat.S_ISREG(path.lstat().st_mode) and file_digest(path) == entry["sha256"]
            except OSError:
                whole = False
            if not whole:
                self.put_aside(key)
                return None
        return manifest

    def copy_out(self, key: str, name: str, target: Path, mode: int = 0o444) -> None:
        """Copy a file of an artefact to a new file, and compare its SHA-256 as it is copied.

        Raises:
            DamagedError: it is not as it was written, or not there. It was put aside.
            OSError: the copy cannot be written.
        """
        manifest = self.find(key)
        entry = None if manifest is None else manifest.files.get(name)
        if entry is not None:
            try:
                copied = copy_file(
                    self.folder(key), name, target, entry["bytes"], shared=True, mode=mode
                )
                if copied.sha256 == entry["sha256"]:
                    return
                target.unlink()
            except IntegrityError:
                pass
            except OSError:  # of the copy, or of a disk that cannot be read any more
                if self.verified(key) is not None:
                    raise
        self.put_aside(key)
        raise DamagedError(key, f"the artefact {key} is damaged or gone; it will be made again")

    def put_aside(self, key: str) -> None:
        """Move a damaged artefact out of the way: to be looked at, never to be used."""
        target = self.vault / "damaged" / f"{key}.{time.time_ns()}"
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.folder(key), target)

    # -- writing -------------------------------------------------------------------------------

    def publish(
        self,
        key: str,
        source: Path | None,
        names: tuple[str, ...],
        *,
        kind: str,
        title: str,
        facts: Mapping[str, Any],
        seconds: float,
        peak_mb: float,
        ingredients: Mapping[str, Any],
        limit_bytes: int = NO_LIMIT,
        check: Callable[[Path], None] | None = None,
        synced: bool = True,
    ) -> Manifest:
        """Make copies of the named files of ``source`` the artefact of ``key``.

        Whoever comes second keeps the first one's result.

        Args:
            source: a folder. It may be hostile: see :mod:`kdbench.untrusted.box`. Nothing in it is
                changed. None: there are no files.
            limit_bytes: the most bytes that the files may have together.
            check: called with the folder of the copies before anything is visible. What it raises
                is raised.
            synced: on the disk before it is visible. Without, a power cut may leave it torn; its
                seal shows that. Only for what is quickly made again of other artefacts.

        Raises:
            IntegrityError: a file is missing, no regular file, or too large.
            OSError: the disk is full. Nothing is then visible under the key, nor after any other
                error.
        """
        with self.scratch() as staging:
            files: dict[str, dict[str, Any]] = {}
            left = limit_bytes
            for name in names:
                if name == MANIFEST or source is None:
                    raise ValueError(f"{name!r} cannot be a file of an artefact")
                copied = copy_file(source, name, staging / name, left, synced=synced)
                files[name] = vars(copied)
                left -= copied.bytes
            if check is not None:
                check(staging)
            manifest = Manifest(
                key,
                kind,
                title,
                dict(facts),
                files,
                round(seconds, 3),
                round(peak_mb, 1),
                round(time.time(), 3),
                dict(ingredients),
            )
            _write(staging / MANIFEST, manifest.encoded(), synced)
            if synced:
                _sync(staging)
            return self._reveal(staging, key, synced) or manifest

    def _reveal(self, staging: Path, key: str, synced: bool) -> Manifest | None:
        """Give a finished folder its name. Answers the artefact that was there first, if any."""
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(staging, target)
        except OSError:
            first = self.verified(key)
            if first is not None:
                return first
            os.rename(staging, target)  # what was in the way was damaged, and is aside now
        if synced:
            _sync(target.parent)
        return None

    def take_over(self, key: str, other: Store) -> None:
        """Have a copy of another store's artefact, for what cannot be computed again: an imported
        teacher.

        Raises:
            IntegrityError: it is not there, or damaged, or was by the time it had been copied.
        """
        manifest = other.find(key)
        if self.verified(key) is None and manifest is not None:
            with self.scratch() as staging:
                for name in manifest.files:
                    other.copy_out(key, name, staging / name)
                _write(staging / MANIFEST, manifest.encoded(), synced=True)
                self._reveal(staging, key, synced=True)
        if self.verified(key) is None:
            raise IntegrityError(
                f"the artefact {key} is damaged or gone from the store {other.root}"
            )

    def lock(self, key: str) -> filelock.BaseFileLock | None:
        """The right to compute a stage, until released or the process ends; None while another run
        has it."""
        path = self._lock_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return None
        return lock

    def lock_warning(self) -> str:
        """What a user should know of locks in this store. Empty if they work."""
        return lock_warning(self.make_vault() / "locks")

    def lock_holder(self, key: str) -> int | None:
        """The process that computes a stage. None where nobody knows."""
        return holder(self._lock_file(key))

    def _lock_file(self, key: str) -> Path:
        return self.make_vault() / "locks" / f"{key}.lock"

    def touch(self, key: str) -> None:
        """Note that a run asked for this artefact, once a day at most."""
        path = self.folder(key) / MANIFEST
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                os.utime(path)


def _write(path: Path, data: bytes, synced: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Bring a file's, or a folder's, bytes to the disk: before the rename, or a power cut could
    leave an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
