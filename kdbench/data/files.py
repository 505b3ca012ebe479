"""Image sets as single files.

The process of a stage gets such a file, so that it can open exactly the images that it may see.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from kdbench._files import save_tensors
from kdbench.data.base import ImageSet
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages

#: How the files of a streamed set are listed. A store may hold lists of an older kdbench, which had
#: them as a text.
LIST_FORM = "paths as bytes"


def save_images(images: ImageSet, path: Path, *, targets: bool = False) -> None:
    """Write an image set: its pixels and labels, or the list of its files where it is streamed.

    Args:
        targets: list the file to which a link leads in the place of the link.

    Raises:
        TypeError: the set is neither in memory nor streamed.
        OSError: the disk is full.
    """
    if isinstance(images, TensorImages):
        save_tensors(
            {"pixels": images.pixels.contiguous(), "labels": images.labels.contiguous()}, path
        )
    elif isinstance(images, StreamedImages):
        paths, appended, rows = _compacted(images)
        if targets:
            paths = [link_target(path) for path in paths]
        tensors = {"labels": images.labels.contiguous(), "rows": rows, "appended": appended}
        save_tensors(
            {**tensors, "paths": packed(paths)}, path, texts={"size": str(images.shape[1])}
        )
    else:
        raise TypeError(f"{type(images).__name__} cannot be written to a file")


def load_images(path: Path, *, workers: int | None = None) -> ImageSet:
    """Read what :func:`save_images` wrote.

    Args:
        workers: threads that decode a streamed set, see :class:`StreamedImages`.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "paths" not in tensors:
        return TensorImages(tensors["pixels"], tensors["labels"])
    paths, size = unpacked(tensors["paths"]), int(header["size"])
    return StreamedImages.restored(
        paths, tensors["appended"], tensors["rows"], tensors["labels"], size, workers=workers
    )


def packed(paths: Sequence[str]) -> Tensor:
    """Paths as uint8 (B,): their bytes, each with a zero after it.

    The header of a safetensors file may not be longer than 100 MB, which the paths of ImageNet
    come near. And a path need not be text.
    """
    data = b"".join(os.fsencode(path) + b"\0" for path in paths)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def unpacked(data: Tensor) -> list[str]:
    """What :func:`packed` packed."""
    return [os.fsdecode(path) for path in data.numpy().tobytes().split(b"\0")[:-1]]


def link_target(path: str) -> str:
    """Where a link leads. A file that is none stays as it is, without a look at its folders."""
    return os.path.realpath(path) if os.path.islink(path) else path


def image_files(images: ImageSet) -> list[str]:
    """Absolute paths of the files that the rows of a set are read from; empty for a set in memory.

    The files of rows that the set no longer has are not among them.
    """
    return _compacted(images)[0] if isinstance(images, StreamedImages) else []


def _compacted(images: StreamedImages) -> tuple[list[str], Tensor, Tensor]:
    """The parts of a set, without the files that none of its rows needs."""
    paths, appended, rows = images.parts
    used = rows[rows < len(paths)].unique()
    place = torch.zeros(len(paths) + len(appended), dtype=torch.int64)
    place[used] = torch.arange(len(used))
    place[len(paths) :] = torch.arange(len(used), len(used) + len(appended))
    here = os.getcwd()  # where paths that are not absolute begin
    return [os.path.join(here, paths[row]) for row in used.tolist()], appended, place[rows]
