"""The header of a safetensors file, read by itself and with limits.

Nothing is imported or constructed for what it names, and no tensor is read. So a process that must
not run a stranger's code can look at a stranger's file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from kdbench.errors import IntegrityError
from kdbench.untrusted.text import strip_control

#: The most bytes of a header. Ten thousand tensors take one million.
MOST_BYTES = 4 << 20
#: dtype -> bytes of an element.
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_MOST_AXES = 8


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Name -> (dtype as safetensors spells it, shape)."""
    texts: dict[str, str]
    """What was written beside the tensors."""


def shown(name: Any) -> str:
    """A name from a foreign file, quoted for a message: one line of about 60 characters at most."""
    text = strip_control(name)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        IntegrityError: see :func:`checked_header`.
    """
    with path.open("rb") as file:
        return checked_header(file, path.stat().st_size)


def checked_header(file: BinaryIO, size: int) -> Header:
    """The header of an open file of ``size`` bytes.

    Raises:
        IntegrityError: it is too large or damaged, or its tensors do not fill the file without gaps
            and overlaps.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_BYTES:
        raise IntegrityError(
            f"its safetensors header claims {length} bytes, where {MOST_BYTES} are allowed"
        )
    if length > size - 8:
        raise IntegrityError(
            f"it is cut off within its safetensors header: {size} bytes are there; copy it once "
            "more"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"its safetensors header is not valid ({strip_control(error)[:80]})"
        ) from None
    if not isinstance(header, dict):
        raise IntegrityError("its safetensors header is no table")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise IntegrityError("the texts of its safetensors header are no table of texts")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    if spans and max(end for _, end in spans) > size - 8 - length:
        needed = 8 + length + max(end for _, end in spans)
        raise IntegrityError(
            f"it is cut off, its safetensors tensors do not fill the file: {size} bytes are there "
            f"of {needed}; copy it once more"
        )
    ends = [(0, 0), *spans, (size - 8 - length, 0)]
    if any(end != begin for (_, end), (begin, _) in pairwise(ends)):
        raise IntegrityError(
            "its safetensors tensors overlap, leave gaps or do not fill the file; copy it once more"
        )
    tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    return Header(tensors, texts)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table for ``json.loads``, which refuses a name that is there twice."""
    # json takes the last of two equal names, and another reader may take the first.
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end. Its shape must take exactly that many bytes."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise IntegrityError(f"the safetensors entry of {shown(name)} is not valid") from None
    if type(dtype) is not str or dtype not in ITEM_BYTES:
        raise IntegrityError(
            f"{shown(name)} is of the type {shown(dtype)}, which is none of weights"
        )
    if len(shape) > _MOST_AXES or not all(
        type(number) is int and 0 <= number < 1 << 63 for number in numbers
    ):
        raise IntegrityError(f"the shape or place of {shown(name)} is not valid")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise IntegrityError(
            f"{shown(name)} of the shape {shape} does not take {end - begin} bytes"
        )
    return begin, end
