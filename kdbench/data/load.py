"""Image files to an image set: in memory where they fit, else streamed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import cache
from kdbench.data.base import ImageSet
from kdbench.data.decode import decode_image
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages

MEMORY_LIMIT = 4 * 2**30
"""A list of files (a split; flower17: the whole set) of more decoded bytes than this is streamed,
not held in memory.

Not a share of the memory that happens to be free: a streamed set has another digest, and a digest
must not depend on the day. Two splits may thus hold 8 GiB.
"""


def image_set(
    paths: Sequence[Path], labels: Sequence[int], size: int, *, root: Path, cache_dir: Path
) -> ImageSet:
    """The files as an image set: in memory and cached when they fit ``MEMORY_LIMIT``, else
    streamed."""
    targets = torch.tensor(labels, dtype=torch.int64)
    if len(paths) * size * size * 3 > MEMORY_LIMIT:
        return StreamedImages(paths, targets, size)
    entry = cache.entry_path(cache_dir, paths, size, root)
    with cache.one_at_a_time(entry):
        pixels = cache.read_entry(entry, (len(paths), size, size, 3))
        if pixels is None:
            pixels = _decode_all(paths, size)
            cache.write_entry(entry, pixels)
    return TensorImages(pixels.permute(0, 3, 1, 2), targets)


def _decode_all(paths: Sequence[Path], size: int) -> Tensor:
    # PIL decodes outside the GIL, so threads help and need no copies between processes.
    pixels = torch.empty(len(paths), size, size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, image in enumerate(pool.map(lambda path: decode_image(path, size), paths)):
            pixels[row] = image
    return pixels
