"""Image sets as single files.

The process of a stage gets such a file, so that it can open exactly the images that it may see.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from kdbench._files import save_tensors
from kdbench.data.base import ImageSet
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages


def save_images(images: ImageSet, path: Path) -> None:
    """Write an image set: its pixels and labels, or the list of its files where it is streamed.

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
        # safetensors keeps tensors only. Texts go into its header, as one text.
        header = {"paths": json.dumps({"paths": paths, "size": images.shape[1]})}
        save_tensors(
            {"labels": images.labels.contiguous(), "rows": rows, "appended": appended},
            path,
            texts=header,
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
    if "paths" not in header:
        return TensorImages(tensors["pixels"], tensors["labels"])
    files = json.loads(header["paths"])
    return StreamedImages.restored(
        files["paths"],
        tensors["appended"],
        tensors["rows"],
        tensors["labels"],
        files["size"],
        workers=workers,
    )


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
