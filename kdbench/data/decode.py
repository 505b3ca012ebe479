"""Decoding image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdbench.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name says. PIL would hand some others, such as EPS,
to an interpreter."""


def decode_image(path: str | Path, size: int) -> Tensor:
    """One image file as uint8 (size, size, 3), RGB.

    The whole picture is resized to a square, bilinearly, without regard to its aspect ratio.

    Raises:
        DatasetError: the file is missing, truncated or no image, or the range of its pixels is not
            known. The message names the file.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            # draft() lets PIL decode a large JPEG at a fraction of its size, which is faster.
            image.draft("RGB", (size, size))
            picture = _rgb(image).resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:
        # On a damaged file PIL raises whatever its parser meets: OSError, struct.error, IndexError,
        # zlib.error and others.
        reason = str(error) or type(error).__name__
        raise DatasetError(
            f"cannot decode image {path}: {reason}; replace or remove the file"
        ) from error
    return torch.from_numpy(np.asarray(picture).copy())


def _rgb(image: Picture) -> Picture:
    """The picture as 8-bit RGB, without an alpha channel.

    Gray levels of 16 bits are scaled to 8, since PIL's own conversion clips them to white.
    """
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
        # Mode I has 32 bits, and also holds pictures of 8 bits, whose levels stay as they are.
        if image.mode != "I" or values.max() > 255:
            values = (values + 128) // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # By way of RGBA the colours are the same, without a warning about transparent entries.
        image = image.convert("RGBA")
    return image.convert("RGB")
