"""The pictures of triggers that lie in a run's folder, made small enough for a page.

A picture may be a stranger's file. It is decoded within bounds and written anew, so that the page
holds pixels and nothing else of it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from kdbench.errors import KdbenchError
from kdbench.untrusted.box import file_names, read_file

#: Bytes and pixels of a file that is opened.
_MOST_BYTES, _MOST_PIXELS = 1 << 22, 1 << 23
#: Bytes of a picture in a page, and pictures.
MOST_SHOWN_BYTES, MOST_SHOWN = 60_000, 12
#: Colours and share of the width that are tried, until a picture is small enough.
_TRIALS = ((256, 1.0), (64, 1.0), (64, 0.6), (16, 0.5))
_NAME = re.compile(r"trigger-(.{1,200})-seed([0-9]{1,19})\.png")


@dataclass(frozen=True)
class Picture:
    """A picture as a page holds it."""

    name: str
    """Of the file."""
    about: str
    """The attack and the teacher, as the file's name has them."""
    seed: int
    width: int
    height: int
    png: bytes
    digest: str
    """SHA-256 of the file."""

    @property
    def address(self) -> Markup:
        """The picture as an address that nobody is asked for. It holds nothing to escape."""
        return Markup(f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}")


@dataclass(frozen=True)
class Pictures:
    """The pictures of runs."""

    shown: tuple[Picture, ...] = ()
    left: tuple[str, ...] = ()
    """Names of the files that are not shown."""


def read_pictures(folders: Sequence[Path]) -> Pictures:
    """One picture for each attack and teacher, of the smallest seed at which it can be read."""
    shown: dict[str, Picture] = {}
    left: list[str] = []
    for folder, name, about, seed in sorted(_named(folders), key=lambda item: item[2:]):
        picture = None
        if about not in shown and len(shown) < MOST_SHOWN:
            picture = _read(folder, name, about, seed)
        if picture is None:
            left.append(name)
        else:
            shown[about] = picture
    return Pictures(tuple(shown.values()), tuple(left))


def _named(folders: Sequence[Path]) -> Iterator[tuple[Path, str, str, int]]:
    """Every picture of a trigger: its folder and name, what it is of, and the seed."""
    for folder in folders:
        for name in file_names(folder, 10_000):
            if match := _NAME.fullmatch(name):
                yield folder, name, match[1], int(match[2])


def _read(folder: Path, name: str, about: str, seed: int) -> Picture | None:
    """A picture for the page. None: it cannot be read, or not made small enough."""
    try:
        content = read_file(folder, name, _MOST_BYTES)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as file:
            if file.width * file.height > _MOST_PIXELS:
                return None
            image = file.convert("RGB")
    # Pillow's decoders raise errors of several kinds.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, KdbenchError):
        return None
    for colors, share in _TRIALS:
        side = round(image.width * share) or 1, round(image.height * share) or 1
        smaller = image if share == 1 else image.resize(side)
        target = io.BytesIO()
        smaller.quantize(colors, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
        if len(target.getvalue()) <= MOST_SHOWN_BYTES:
            digest = hashlib.sha256(content).hexdigest()
            return Picture(name, about, seed, *smaller.size, target.getvalue(), digest)
    return None
