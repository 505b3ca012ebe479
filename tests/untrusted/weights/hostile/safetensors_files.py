"""Safetensors files whose header or values lie."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from safetensors.torch import save

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import Build, Family

FILES = Family()

Entry = dict[str, str | list[int]]


def _entry(shape: list[int], begin: int, end: int) -> Entry:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


#: What refuses a header, the header, and the number of bytes behind it, by what is wrong with it.
_HEADERS: dict[str, tuple[str, dict[str, Entry], int]] = {
    "tensors that overlap": ("overlap", {"a": _entry([4], 0, 16), "b": _entry([4], 8, 24)}, 24),
    "a tensor beyond the end": ("do not fill the file", {"a": _entry([1 << 30], 0, 1 << 32)}, 16),
    "a shape larger than its bytes": (
        "does not take",
        {"a": _entry([1 << 40, 1 << 22], 0, 16)},
        16,
    ),
}


def _with_header(header: bytes, data: bytes = b"") -> Build:
    content = struct.pack("<Q", len(header)) + header + data
    return lambda path, canary: path.write_bytes(content)


for _name, (_why, _header, _size) in _HEADERS.items():
    FILES.add(f"safetensors: {_name}", _why, ".safetensors")(
        _with_header(json.dumps(_header).encode(), bytes(_size))
    )
FILES.add("safetensors: deeply nested header", "header is not valid", ".safetensors")(
    _with_header(b'{"a":' + b"[" * 1_000_000)
)


@FILES.add("safetensors: a header of 100 MB", "header claims", ".safetensors")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(struct.pack("<Q", 100_000_000) + b"{")
    os.truncate(path, 100_000_100)


@FILES.add("safetensors: cut off", "do not fill the file", ".safetensors")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(save(good())[:-100])


@FILES.add("safetensors: NaN", "NaN", ".safetensors")
def _(path: Path, canary: Path) -> None:
    weights = good()
    weights["fc.weight"][3, 5] = float("nan")
    path.write_bytes(save(weights))
