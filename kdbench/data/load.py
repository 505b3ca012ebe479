"""Loading image files as an image set, in memory or streamed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import cache
from kdbench.data.base import ImageSet
from kdbench.data.decode import Failure, UndecodableError, decode_image
from kdbench.data.decoding import usable_cpus
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages

MEMORY_LIMIT = 4 * 2**30
"""Decoded bytes. A list of files with more than this is streamed and not held in memory.

Such a list is one split, and for flower17 both splits, so two splits may hold 8 GiB. The limit does
not depend on how much memory is free: a streamed set has another digest, and a digest must not
depend on the day.
"""


def image_set(
    paths: Sequence[Path], labels: Sequence[int], size: int, *, root: Path, cache_dir: Path
) -> ImageSet:
    """The files as an image set.

    It is in memory and cached where it fits ``MEMORY_LIMIT``, else streamed.

    Args:
        paths: image files.
        labels: the class of each file.
        size: pixels a side after resizing.
        root: a folder that holds all files. The cache knows them by their paths below it.
        cache_dir: where decoded pixels are kept.

    Raises:
        UndecodableError: files cannot be decoded. For a streamed set this comes when it is read.
    """
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


def image_sets(
    splits: Sequence[tuple[Sequence[Path], Sequence[int]]],
    size: int,
    *,
    root: Path,
    cache_dir: Path,
) -> list[ImageSet]:
    """Several splits as image sets: files and their classes each, see :func:`image_set`.

    Raises:
        UndecodableError: some files cannot be decoded. It counts those of all splits.
    """
    sets: list[ImageSet] = []
    failures: list[Failure] = []
    total = 0
    for paths, labels in splits:
        total += len(paths)
        try:
            sets.append(image_set(paths, labels, size, root=root, cache_dir=cache_dir))
        except UndecodableError as error:
            failures += error.failures
    if failures:
        raise UndecodableError(failures, total)
    return sets


def _decode_all(paths: Sequence[Path], size: int) -> Tensor:
    # PIL releases the GIL while it decodes. So threads are enough, and nothing is copied between
    # processes. Large pictures are decoded one at a time, so that the memory stays that of one.
    pixels, alone = torch.empty(len(paths), size, size, 3, dtype=torch.uint8), threading.Lock()
    failures: list[Failure] = []

    def decode(path: Path) -> Tensor | UndecodableError:
        try:
            return decode_image(path, size, alone)
        except UndecodableError as error:
            return error

    with ThreadPoolExecutor(usable_cpus()) as pool:
        # All of them, so that one message can name all that are damaged.
        for row, image in enumerate(pool.map(decode, paths)):
            if isinstance(image, UndecodableError):
                failures += image.failures
            else:
                pixels[row] = image
    if failures:
        raise UndecodableError(failures, len(paths))
    return pixels
