"""Image files to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdbench.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name says: PIL would hand others, such as EPS, to an
interpreter."""


def decode_image(path: str | Path, size: int) -> Tensor:
    """One image file as uint8 (size, size, 3): RGB, bilinear, the whole picture squeezed to a
    square.

    Raises DatasetError naming the file when it is missing, truncated, no image, or of pixels
    without a known range.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            # draft() lets a JPEG decode at a fraction of its size when it is much larger than what
            # is wanted.
            image.draft("RGB", (size, size))
            picture = _rgb(image).resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:
        # On a damaged file PIL raises whatever its parsing runs into: OSError, struct.error,
        # IndexError, zlib.error ...
        reason = str(error) or type(error).__name__
        raise DatasetError(
            f"cannot decode image {path}: {reason}; replace or remove the file"
        ) from error
    return torch.from_numpy(np.asarray(picture).copy())


def _rgb(image: Picture) -> Picture:
    """8-bit RGB, without the alpha channel. Gray levels of 16 bits are scaled; PIL's own conversion
    clips them to white."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers (mode F), whose range is not known; save it "
            "with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"its gray levels span {values.min()}..{values.max()}; save it with 8 or 16 bits"
            )
        if image.mode != "I" or values.max() > 255:
            values = (values + 128) // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # The detour gives the same colours, and no warning for a palette with transparent entries.
        image = image.convert("RGBA")
    return image.convert("RGB")
