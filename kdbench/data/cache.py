"""A cache of decoded pixels: one file for each list of images, checked when it is read.

It only saves time. A run works without it, too.
"""

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

from kdbench._files import save_tensors

_PATIENCE = 600.0
"""Seconds to wait for another process that makes the same entry. After that both make it."""


def entry_path(cache_dir: Path, paths: Sequence[Path], size: int, root: Path) -> Path:
    """The file of these images' pixels.

    Its name changes with the path below ``root``, the length or the time of any file.

    Raises:
        OSError: one of the files is missing.
    """
    # The number in the text rises when decoding changes, so that no old entry is used.
    digest = hashlib.sha256(json.dumps(["kdbench-3", str(root.resolve()), size]).encode())
    for path in paths:
        facts = path.stat()
        # Length and time stand for the content: reading it all would take as long as decoding.
        digest.update(os.fsencode(os.path.relpath(path, root)))
        digest.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return cache_dir / f"{digest.hexdigest()}.safetensors"


@contextlib.contextmanager
def one_at_a_time(entry: Path) -> Iterator[bool]:
    """Hold the entry's lock. So one of two processes makes the entry and the other one reads it.

    Yields:
        Whether the lock is held.
    """
    import filelock

    lock = filelock.FileLock(entry.with_suffix(".lock"), timeout=_PATIENCE)
    # Without a lock (a read-only folder, or Timeout, which is an OSError) both make the entry. That
    # is slower but safe, since an entry appears by renaming.
    with contextlib.suppress(OSError, NotImplementedError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


def read_entry(entry: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The cached pixels, uint8 of ``shape``. None where there are none or they are damaged."""
    from safetensors import SafetensorError, safe_open

    if not entry.is_file():
        return None
    try:
        with safe_open(str(entry), framework="pt") as stored:
            expected = (stored.metadata() or {}).get("sha256")
            pixels = stored.get_tensor("pixels")
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    # A disk may damage a file, and wrong pixels would give wrong numbers without an error.
    whole = (
        pixels.dtype == torch.uint8 and tuple(pixels.shape) == shape and _digest(pixels) == expected
    )
    return pixels if whole else None


def write_entry(entry: Path, pixels: Tensor) -> None:
    """Write the entry under another name, then rename it. So a reader never sees half a file."""
    # A full or read-only disk must not stop the run.
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_tensors({"pixels": pixels}, temporary, {"sha256": _digest(pixels)})
            os.replace(temporary, entry)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy().data).hexdigest()
