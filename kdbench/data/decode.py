"""Image files to pixels: decoding, and a checked cache of what was decoded."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data.base import ImageSet
from kdbench.data.tensor import TensorImages
from kdbench.errors import DatasetError

MEMORY_LIMIT = 4 * 2**30
"""Decoded sets of more bytes than this are streamed from their files instead of held in memory."""


def decode_image(path: str | Path, size: int) -> Tensor:
    """One image file as uint8 (size, size, 3): RGB, bilinear, the whole picture squeezed to a square.

    Raises DatasetError naming the file when it is missing, truncated or no image.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            # draft() lets a JPEG decode at a fraction of its size when it is much larger than what is wanted.
            image.draft("RGB", (size, size))
            picture = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot decode image {path}: {error}; restore or remove the file") from error
    return torch.from_numpy(np.asarray(picture).copy())


def image_set(paths: Sequence[Path], labels: Sequence[int], size: int, *, root: Path, cache_dir: Path) -> ImageSet:
    """The files as an image set: in memory and cached when they fit ``MEMORY_LIMIT``, else streamed."""
    targets = torch.tensor(labels, dtype=torch.int64)
    if len(paths) * size * size * 3 > MEMORY_LIMIT:
        from kdbench.data.stream import StreamedImages

        return StreamedImages(paths, targets, size)
    cache = cache_dir / f"{_key(paths, size, root)}.safetensors"
    pixels = _read_cache(cache, (len(paths), size, size, 3))
    if pixels is None:
        pixels = _decode_all(paths, size)
        _write_cache(cache, pixels)
    return TensorImages(pixels.permute(0, 3, 1, 2), targets)


def _decode_all(paths: Sequence[Path], size: int) -> Tensor:
    # PIL decodes outside the GIL, so threads help and need no copies between processes.
    pixels = torch.empty(len(paths), size, size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, image in enumerate(pool.map(lambda path: decode_image(path, size), paths)):
            pixels[row] = image
    return pixels


def _key(paths: Sequence[Path], size: int, root: Path) -> str:
    digest = hashlib.sha256(json.dumps(["kdbench-1", str(root.resolve()), size]).encode())
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:
            raise DatasetError(f"cannot read image {path}: {error.strerror}; the dataset is incomplete") from error
        digest.update(f"{os.path.relpath(path, root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy()).hexdigest()


def _read_cache(cache: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The cached pixels, or None where there are none or they are damaged (they are then rebuilt)."""
    from safetensors import SafetensorError, safe_open

    if not cache.is_file():
        return None
    try:
        with safe_open(str(cache), framework="pt") as stored:
            expected = (stored.metadata() or {}).get("sha256")
            pixels = stored.get_tensor("pixels")
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    whole = pixels.dtype == torch.uint8 and tuple(pixels.shape) == shape and _digest(pixels) == expected
    return pixels if whole else None


def _write_cache(cache: Path, pixels: Tensor) -> None:
    """Write under another name, then rename: a reader never sees half a file."""
    from safetensors.torch import save_file

    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache.parent, suffix=".tmp")
        os.close(handle)
        save_file({"pixels": pixels}, temporary, metadata={"sha256": _digest(pixels)})
        os.replace(temporary, cache)
    except OSError:
        # The cache only saves time; a full or read-only disk must not stop the run.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
