"""Decoded pixels on disk: a file per list of images, checked when read. It saves time; no run
depends on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

_PATIENCE = 600.0
"""Seconds to wait for another process that makes the same entry; after that both do."""


def entry_path(cache_dir: Path, paths: Sequence[Path], size: int, root: Path) -> Path:
    """Where these files' pixels are kept; another name as soon as a file's path, length or time
    changes."""
    # The number rises when decoding changes.
    digest = hashlib.sha256(json.dumps(["kdbench-2", str(root.resolve()), size]).encode())
    for path in paths:
        facts = path.stat()
        digest.update(
            f"{os.path.relpath(path, root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode()
        )
    return cache_dir / f"{digest.hexdigest()}.safetensors"


@contextlib.contextmanager
def one_at_a_time(entry: Path) -> Iterator[bool]:
    """Hold the entry's lock, so that of two processes one makes the entry and the other reads it;
    whether it is held."""
    import filelock

    lock = filelock.FileLock(entry.with_suffix(".lock"), timeout=_PATIENCE)
    # Where no lock can be had (a read-only folder, too long a wait; Timeout is an OSError) both
    # make it, which is only slower: entries appear by renaming.
    with contextlib.suppress(OSError, NotImplementedError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


def read_entry(entry: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The cached pixels, or None where there are none or they are damaged (they are then
    rebuilt)."""
    from safetensors import SafetensorError, safe_open

    if not entry.is_file():
        return None
    try:
        with safe_open(str(entry), framework="pt") as stored:
            expected = (stored.metadata() or {}).get("sha256")
            pixels = stored.get_tensor("pixels")
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    whole = (
        pixels.dtype == torch.uint8 and tuple(pixels.shape) == shape and _digest(pixels) == expected
    )
    return pixels if whole else None


def write_entry(entry: Path, pixels: Tensor) -> None:
    """Write under another name, then rename: a reader never sees half a file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A full or read-only disk must not stop the run; safetensors reports a full one as an error of
    # its own.
    with contextlib.suppress(OSError, SafetensorError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_file({"pixels": pixels}, temporary, metadata={"sha256": _digest(pixels)})
            os.replace(temporary, entry)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy().data).hexdigest()
