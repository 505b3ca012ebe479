"""JSON, and files that appear whole or not at all."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.untrusted.documents import parse_json
from kdbench.untrusted.files import read_regular

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of a record. One of 10,000 cells has about 30 MiB.
_MOST_RECORD = 1 << 29


def jsonable(value: Any) -> Any:
    """A value that strict JSON can hold: NaN and infinities become null, strangers become text."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return str(value)
    return number if math.isfinite(number) else None


def write_record(value: dict[str, Any], path: str | Path) -> None:
    """Write ``value`` as JSON with sorted keys.

    Each item of a list in it has a line. The items are written one after the other and never held
    as one text, since there may be hundreds of thousands.
    """

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8") as file:
            file.writelines(_record_text(value))

    write_atomically(path, write)


def read_record(path: str | Path) -> Any:
    """What :func:`write_record` wrote, or what somebody put in its place.

    Raises:
        OSError: it is no regular file, is too large or cannot be read.
        ValueError: it is no JSON.
    """
    return parse_json(read_regular(path, _MOST_RECORD))


def _record_text(value: dict[str, Any]) -> Iterator[str]:
    """The pieces of the text of a record."""
    before = "{"
    for key, part in sorted(value.items()):
        yield f"{before}\n {json.dumps(key)}: "
        if isinstance(part, list) and part:
            for first, item in zip(itertools.chain("[", itertools.repeat(",")), part, strict=False):
                yield f"{first}\n  {_strict(item)}"
            yield "\n ]"
        else:
            yield _strict(part, indent=1).replace("\n", "\n ")
        before = ","
    yield "\n}\n" if value else "{}\n"


def _strict(value: Any, indent: int | None = None) -> str:
    return json.dumps(jsonable(value), indent=indent, sort_keys=True, allow_nan=False)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place.

    If writing fails, the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, texts: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Args:
        texts: name -> text, for its header.

    Raises:
        OSError: the disk is full or the folder is gone. safetensors has an error of its own for
            it, which no caller would know as the machine's doing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=dict(texts) if texts is not None else None)
    except SafetensorError as error:
        number = re.search(r"\(os error ([0-9]+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
