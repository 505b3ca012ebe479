"""Image files to pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdbench.data import cache
from kdbench.data.base import ImageSet
from kdbench.data.tensor import TensorImages
from kdbench.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name says: PIL would hand others, such as EPS, to an interpreter."""

MEMORY_LIMIT = 4 * 2**30
"""A list of files (a split; flower17: the whole set) of more decoded bytes than this is streamed, not held in memory.

Not a share of the memory that happens to be free: a streamed set has another digest, and a digest must not depend on the
day. Two splits may thus hold 8 GiB.
"""


def decode_image(path: str | Path, size: int) -> Tensor:
    """One image file as uint8 (size, size, 3): RGB, bilinear, the whole picture squeezed to a square.

    Raises DatasetError naming the file when it is missing, truncated, no image, or of pixels without a known range.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            # draft() lets a JPEG decode at a fraction of its size when it is much larger than what is wanted.
            image.draft("RGB", (size, size))
            picture = _rgb(image).resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:
        # On a damaged file PIL raises whatever its parsing runs into: OSError, struct.error, IndexError, zlib.error ...
        reason = str(error) or type(error).__name__
        raise DatasetError(f"cannot decode image {path}: {reason}; replace or remove the file") from error
    return torch.from_numpy(np.asarray(picture).copy())


def _rgb(image: Picture) -> Picture:
    """8-bit RGB, without the alpha channel. Gray levels of 16 bits are scaled; PIL's own conversion clips them to white."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers (mode F), whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its gray levels span {values.min()}..{values.max()}; save it with 8 or 16 bits")
        if image.mode != "I" or values.max() > 255:
            values = (values + 128) // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # The detour gives the same colours, and no warning for a palette with transparent entries.
        image = image.convert("RGBA")
    return image.convert("RGB")


def image_set(paths: Sequence[Path], labels: Sequence[int], size: int, *, root: Path, cache_dir: Path) -> ImageSet:
    """The files as an image set: in memory and cached when they fit ``MEMORY_LIMIT``, else streamed."""
    targets = torch.tensor(labels, dtype=torch.int64)
    if len(paths) * size * size * 3 > MEMORY_LIMIT:
        from kdbench.data.stream import StreamedImages

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
