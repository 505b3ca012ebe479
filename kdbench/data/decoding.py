"""Decoding a pass of image files, ahead of who reads it, in threads.

Pillow releases the interpreter's lock while it decodes, so threads are enough. Processes would hand
pictures over by sockets and files outside of a job's folder, and could end without a word.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from kdbench.data.decode import decode_image

_MOST_THREADS = 8
#: Batches that are decoded before the reader asks for them.
_AHEAD = 2
#: Files that a thread decodes in one go. One at a time costs more for tiny files.
_TOGETHER = 4


def usable_cpus() -> int:
    """CPUs that this process may use, at most 8: so many threads decode images."""
    known = hasattr(os, "sched_getaffinity")
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1)


def decoding_threads(jobs: int) -> int:
    """Threads that decode for each of so many jobs side by side: its part of the CPUs."""
    return max(1, usable_cpus() // max(1, jobs))


def decoded_batches(
    paths: Sequence[str],
    appended: Tensor,
    size: int,
    parts: Sequence[Sequence[int]],
    workers: int,
    *,
    pinned: bool = False,
) -> Iterator[Tensor]:
    """One uint8 tensor (M, size, size, 3) for each of the parts, in their order.

    No thread is left when the iterator has ended or was closed. At most three batches are in memory
    at a time.

    Args:
        paths: image files.
        appended: uint8 (M, size, size, 3). Rows count through the files first, then through these.
        parts: rows of each batch.
        workers: threads. With 0 the caller decodes a batch when it is asked for.
        pinned: into memory from which a GPU copies without waiting.

    Raises:
        DatasetError: a file cannot be decoded. The message names the first of the batch.
    """
    batches = _Batches(paths, appended, size, pinned)
    if not workers:
        for part in parts:
            pixels = batches.empty(part)
            batches.fill(pixels, part)
            yield pixels
        return
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        for part in parts:
            waiting.append(batches.begin(pool, part))
            if len(waiting) > _AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(pixels: Tensor, futures: list[Future[None]]) -> Tensor:
    for future in futures:
        future.result()
    return pixels


class _Batches:
    def __init__(self, paths: Sequence[str], appended: Tensor, size: int, pinned: bool) -> None:
        self.paths, self.appended, self.size, self.pinned = paths, appended, size, pinned
        #: Held while a large picture is decoded, so that the memory stays that of one.
        self.alone = threading.Lock()

    def empty(self, part: Sequence[int]) -> Tensor:
        shape = (len(part), self.size, self.size, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)

    def begin(
        self, pool: ThreadPoolExecutor, part: Sequence[int]
    ) -> tuple[Tensor, list[Future[None]]]:
        """Let threads fill a batch."""
        pixels = self.empty(part)
        starts = range(0, len(part), _TOGETHER)
        return pixels, [
            pool.submit(self.fill, pixels[at : at + _TOGETHER], part[at : at + _TOGETHER])
            for at in starts
        ]

    def fill(self, pixels: Tensor, rows: Sequence[int]) -> None:
        # By numpy: torch would start threads of its own in each of these threads.
        target, known = pixels.numpy(), len(self.paths)
        for place, row in enumerate(rows):
            image = (
                decode_image(self.paths[row], self.size, self.alone)
                if row < known
                else self.appended[row - known]
            )
            target[place] = image.numpy()
