"""Decoding image files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdbench.errors import DatasetError
from kdbench.untrusted.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name says. PIL would hand some others, such as EPS,
to an interpreter."""


MOST_PIXELS = 1 << 26
"""Pixels of the largest picture that is decoded. It takes 0.6 GiB meanwhile, and 0.9 GiB
where it is turned."""
LARGE = 1 << 22
"""Pixels above which a picture is large. The largest that is not takes 40 MiB while it is
decoded."""
_MOST_SIDE = 65_535
"""Pixels of its longer side. Each row takes memory of its own."""
_MOST_BYTES = 1 << 29
"""Bytes of the largest image file."""
_STRIP = 1 << 20
"""Pixels whose levels are converted at once."""
_MOST_NAMED = 5
"""Files that a message names."""
_ORIENTATION = 0x0112
"""Number of the orientation among the notes (EXIF) in an image file."""


@dataclass(frozen=True)
class Failure:
    """An image file that cannot be decoded."""

    path: str
    """Where it is."""
    reason: str
    """Why, and where it is known what to do."""


class UndecodableError(DatasetError):
    """Image files that cannot be decoded. The message names the first of them.

    Args:
        failures: all of them.
        total: how many files were tried.
    """

    def __init__(self, failures: Sequence[Failure], total: int = 1) -> None:
        self.failures, self.total = tuple(failures), total
        first = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:_MOST_NAMED])
        if len(failures) == 1:
            super().__init__(f"cannot decode image {first}; replace or remove the file")
            return
        more = len(failures) - _MOST_NAMED
        super().__init__(
            f"cannot decode {len(failures)} of {total} image files: {first}"
            f"{f'; and {more} more' if more > 0 else ''}; replace or remove the files"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """It may come from another process."""
        return type(self), (self.failures, self.total)


def decode_image(
    path: str | Path, size: int, alone: AbstractContextManager[object] | None = None
) -> Tensor:
    """One image file as uint8 (size, size, 3), RGB.

    The picture is turned upright where its orientation says so. Of an animation the first frame is
    taken. The whole picture is resized to a square, bilinearly, without regard to its aspect ratio.

    Args:
        alone: held while a picture of more than ``LARGE`` pixels is decoded.

    Raises:
        UndecodableError: the file is missing, not regular, truncated or no image. Or it has more
            than ``MOST_PIXELS`` pixels, or the range of its pixels is not known. The message names
            the file.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with (
            open_regular(path, _MOST_BYTES) as file,
            Image.open(file, formats=FORMATS) as image,
            _turn(image, alone),
        ):
            # draft() lets PIL decode a large JPEG at a fraction of its size, which is faster.
            image.draft("RGB", (size, size))
            picture = _upright(_rgb(image), image).resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        reason = f"cannot identify it as one of {', '.join(FORMATS)}{_what_else(path)}"
        raise UndecodableError([Failure(str(path), reason)]) from error
    except Exception as error:
        # On a damaged file PIL raises whatever its parser meets: OSError, struct.error, IndexError,
        # zlib.error and others.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UndecodableError([Failure(str(path), reason)]) from error
    return torch.from_numpy(np.asarray(picture).copy())


def _upright(picture: Picture, image: Picture) -> Picture:
    """``picture``, turned and mirrored as the orientation of the decoded ``image`` says.

    Cameras store what their sensor saw, and write beside it how the camera was held.
    """
    from PIL.Image import Transpose

    try:
        # Of a TIFF PIL has turned the pixels already, and no orientation is left.
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged notes beside sound pixels
        return picture
    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation if isinstance(orientation, int) else 1)
    return picture if method is None else picture.transpose(method)


def _what_else(path: str | Path) -> str:
    """What a file is that is no image which is read here, and what to do. Empty: not known."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except OSError:
        return ""
    if not start:
        return "; it is empty, so copy it again"
    text = start.lstrip().lower()
    known = (
        (start.startswith(b"GIF8"), "a GIF: save it as PNG"),
        (start[4:8] == b"ftyp", "an HEIC, AVIF or video file: save it as JPEG or PNG"),
        (text.startswith(b"version https://git-lfs"), "a Git LFS pointer: run git lfs pull"),
        (text.startswith((b"<!doctype html", b"<html")), "a web page: download it again"),
        (text.startswith((b"<svg", b"<?xml")), "a drawing or other XML: save it as PNG"),
        (start.startswith(b"\0\5\x16\7"), "a companion file of macOS: remove it"),
    )
    return next((f"; it is {what}" for fits, what in known if fits), "")


def _turn(
    image: Picture, alone: AbstractContextManager[object] | None
) -> AbstractContextManager[object]:
    """What to hold while a picture is decoded. Its header is read by now, and none of its pixels.

    Raises:
        ValueError: it is too large.
    """
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > _MOST_SIDE:
        raise ValueError(
            f"it has {width} x {height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million are "
            f"decoded, {_MOST_SIDE} a side; make it smaller"
        )
    return alone if alone is not None and width * height > LARGE else nullcontext()


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
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"its gray levels span {low}..{high}; save it with 8 or 16 bits")
        # Mode I has 32 bits, and also holds pictures of 8 bits, whose levels stay as they are.
        scaled = image.mode != "I" or high > 255
        levels = np.empty(values.shape, np.uint8)
        # In strips, since 64 bits a pixel of a whole picture take much memory.
        rows = max(1, _STRIP // max(1, values.shape[1]))
        for start in range(0, len(values), rows):
            part = values[start : start + rows].astype(np.int64)
            levels[start : start + rows] = (part + 128) // 257 if scaled else part
        return Image.fromarray(levels).convert("RGB")
    if image.mode == "P":
        # By way of RGBA the colours are the same, without a warning about transparent entries.
        image = image.convert("RGBA")
    return image.convert("RGB")
