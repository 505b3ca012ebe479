"""``python benchmarks/streams.py``: images a second of a streamed set against one in memory.

It only decodes and puts batches together; nothing is trained.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdbench.data.base import ImageSet
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages

COUNT, BATCH = 2000, 128


def per_second(images: ImageSet) -> float:
    """The better of two passes."""
    best = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        for _batch in images.batches(BATCH):
            pass
        best = max(best, len(images) / (time.perf_counter() - begin))
    return best


def main() -> None:
    print(f"{len(os.sched_getaffinity(0))} CPUs, {COUNT} JPEGs a row; images a second")
    for of, side in ((64, 32), (64, 224), (400, 224)):
        with tempfile.TemporaryDirectory() as folder:
            draw = np.random.default_rng(0)
            paths = [Path(folder, f"{n}.jpg") for n in range(COUNT)]
            for path in paths:
                small = draw.integers(0, 255, (of // 8, of // 8, 3)).astype("uint8")
                Image.fromarray(small).resize((of, of)).save(path)
            labels = torch.zeros(COUNT, dtype=torch.int64)
            rates = {}
            for workers in (0, 1, 2, 4):
                streamed = StreamedImages(paths, labels, side, workers=workers)
                rates[f"{workers} threads"] = per_second(streamed)
            pixels = torch.zeros(COUNT, 3, side, side, dtype=torch.uint8)
            rates["in memory"] = per_second(TensorImages(pixels, labels))
        shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        print(f"files of {of} px at side {side}: {shown}", flush=True)


if __name__ == "__main__":
    main()
