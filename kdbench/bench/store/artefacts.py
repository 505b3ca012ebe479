"""Results that are computed once: a folder of artefacts, each under the SHA-256 of everything that
could change it.

    objects/ab/abcd.../     manifest.json, and files such as model.safetensors
    work/abcd.../           a stage in progress: its inputs, its checkpoints, its log
    damaged/                what failed its check, put aside
    locks/                  one file a stage in progress, held by the run that computes it
    timings.jsonl           how long each stage took, for estimates

An artefact is written under ``work``, synced, and published by one rename: it is there whole or not
at all. A row is not synced, since it is made again of its measurements: a power cut may tear it.
Its manifest holds the SHA-256 of every file and of itself, and nothing is used before it was
compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from kdbench.bench.kinds import Kind
from kdbench.errors import ConfigError, IntegrityError

MANIFEST = "manifest.json"
FORMAT = 2


@dataclass(frozen=True)
class Manifest:
    """What an artefact says of itself.

    kind: of stage. title: in words. facts: numbers of the stage. files: name -> {sha256, bytes}.
    seconds: of wall time.
    peak_mb: peak memory, MiB. made: seconds since 1970. ingredients: what the key is the digest of.
    """

    key: str
    kind: str
    title: str
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]
    seconds: float
    peak_mb: float
    made: float
    ingredients: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the files, the manifest left out."""
        return sum(entry["bytes"] for entry in self.files.values())

    def encoded(self) -> bytes:
        """Canonical JSON with a seal: SHA-256 of the same with an empty seal."""
        body = {"format": FORMAT, **vars(self), "seal": ""}
        return _canonical({**body, "seal": hashlib.sha256(_canonical(body)).hexdigest()})

    @classmethod
    def decoded(cls, data: bytes) -> Manifest:
        """The inverse; ValueError unless every byte is as it was written."""
        fields = json.loads(data)
        seal = fields.pop("seal")
        unsealed = data.replace(b'"seal":"%b"' % seal.encode(), b'"seal":""', 1)
        if hashlib.sha256(unsealed).hexdigest() != seal:
            raise ValueError("the seal does not fit")
        if fields.pop("format") != FORMAT:
            raise ValueError("written by another version of the store")
        return cls(**fields)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


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


class Store:
    """The store in a folder, which is made when something is first written."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (default_root() if root is None else root).expanduser().absolute()
        self._objects = str(self.root / "objects")

    def check_writable(self) -> None:
        """Raise ConfigError unless the folder can be made and written to."""
        try:
            for name in ("objects", "work", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.root / "work" / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the store {self.root} cannot be written to ({error.strerror or error}); name "
                "another folder with --store"
            ) from error

    def folder(self, key: str) -> Path:
        """Where the artefact is or would be."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        """The same as text: a run looks for hundreds of thousands, and a Path costs more than a
        look."""
        return f"{self._objects}/{key[:2]}/{key}"

    def workspace(self, key: str) -> Path:
        """The folder of the stage while it is computed."""
        return self.root / "work" / key

    def __iter__(self) -> Iterator[str]:
        """Every key, sorted."""
        for shelf in sorted((self.root / "objects").glob("??")):
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

    def put_aside(self, key: str) -> None:
        """Move a damaged artefact out of the way: to be looked at, never to be used."""
        target = self.root / "damaged" / f"{key}.{time.time_ns()}"
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.folder(key), target)

    # -- writing -------------------------------------------------------------------------------

    def publish(
        self,
        key: str,
        source: Path,
        names: tuple[str, ...],
        *,
        kind: str,
        title: str,
        facts: Mapping[str, Any],
        seconds: float,
        peak_mb: float,
        ingredients: Mapping[str, Any],
        synced: bool = True,
    ) -> Manifest:
        """Make the named files of ``source`` (a folder of this store; it is gone afterwards) the
        artefact of ``key``.

        Whoever comes second keeps the first one's result. synced: on the disk before it is visible.
        Without, a power cut may leave it torn; its seal shows that. Only for what is quickly made
        again of other artefacts.

        Raises:
            OSError: the disk is full, or a file is missing or no plain file; nothing is then
                visible under the key.
        """
        files = {}
        for path in source.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in names:
            path = source / name
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OSError(f"{name} is no plain file")
            path.chmod(0o444)
            files[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
            if synced:
                _sync(path)
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
        _write(source / MANIFEST, manifest.encoded(), synced)
        if synced:
            _sync(source)
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(source, target)
        except OSError:
            first = self.verified(key)
            if first is None:
                os.rename(source, target)  # what was in the way was damaged, and is aside now
            else:
                shutil.rmtree(source, ignore_errors=True)
                return first
        if synced:
            _sync(target.parent)
        return manifest

    def take_over(self, key: str, other: Store) -> None:
        """Have a copy of another store's artefact, for what cannot be computed again: an imported
        teacher.

        Raises:
            IntegrityError: it is not there, or damaged, or was by the time it had been copied.
        """
        if self.verified(key) is None and other.verified(key) is not None:
            copy = shutil.copytree(other.folder(key), self.workspace(f"{key}.copy"))
            self.folder(key).parent.mkdir(parents=True, exist_ok=True)
            os.rename(copy, self.folder(key))
        if self.verified(key) is None:
            raise IntegrityError(
                f"the artefact {key} is damaged or gone from the store {other.root}"
            )

    def lock(self, key: str) -> filelock.BaseFileLock | None:
        """The right to compute a stage, until released or the process ends; None while another run
        has it."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return None
        return lock

    # -- care ----------------------------------------------------------------------------------

    def verify(self) -> tuple[int, list[str]]:
        """Compare every file of every artefact: (how many are whole, keys of those that were put
        aside)."""
        whole, damaged = 0, []
        for key in list(self):
            if self.verified(key) is None:
                damaged.append(key)
            else:
                whole += 1
        return whole, damaged

    def garbage(self, days: float, unused_days: float | None = None) -> list[Path]:
        """What may be deleted: leftovers of stages that are done, work that nobody took up for
        ``days``, what was put aside, old locks that nobody holds, and, on demand, artefacts but
        imported ones that no run asked for in ``unused_days``."""
        now, garbage = time.time(), []
        for folder in self._entries("work"):
            lock = self.lock(folder.name)
            if lock is None:
                continue
            lock.release()
            old = (
                now - max((p.lstat().st_mtime for p in (folder, *folder.rglob("*"))), default=0)
                > days * 86400
            )
            if old or self.find(folder.name) is not None:
                garbage.append(folder)
        garbage += self._entries("damaged")
        for path in self._entries("locks"):
            # Not a young one: between making the file and locking it, it is nobody's, and
            # somebody's next.
            if now - path.stat().st_mtime > 86400 and (lock := self.lock(path.stem)) is not None:
                lock.release()
                garbage.append(path)
        if unused_days is not None:
            for key in self:
                manifest = self.find(key)
                if manifest is None or manifest.kind == Kind.IMPORTED:
                    continue  # put aside by now, or nothing that could be computed again
                if now - (self.folder(key) / MANIFEST).stat().st_mtime > unused_days * 86400:
                    garbage.append(self.folder(key))
        return garbage

    def touch(self, key: str) -> None:
        """Note that a run asked for this artefact, once a day at most."""
        path = self.folder(key) / MANIFEST
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                os.utime(path)

    def _entries(self, name: str) -> list[Path]:
        folder = self.root / name
        return sorted(folder.iterdir()) if folder.is_dir() else []


def remove(path: Path) -> int:
    """Delete a file or a folder; answers the bytes that were freed."""
    paths = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    size = sum(p.lstat().st_size for p in paths if not p.is_dir())
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return size


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
