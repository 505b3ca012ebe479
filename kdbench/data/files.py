"""Image sets as single files.

The process of a stage gets such a file, so that it can open exactly the images that it may see.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from kdbench.data.base import ImageSet
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages


def save_images(images: ImageSet, path: Path) -> None:
    """Write an image set: its pixels and labels, or the list of its files where it is streamed.

    Raises:
        TypeError: the set is neither in memory nor streamed.
    """
    if isinstance(images, TensorImages):
        save_file(
            {"pixels": images.pixels.contiguous(), "labels": images.labels.contiguous()}, path
        )
    elif isinstance(images, StreamedImages):
        paths, appended, rows = images.parts
        # safetensors keeps tensors only. Texts go into its header, as one text.
        header = {
            "paths": json.dumps(
                {"paths": [str(Path(p).absolute()) for p in paths], "size": images.shape[1]}
            )
        }
        save_file(
            {"labels": images.labels.contiguous(), "rows": rows, "appended": appended},
            path,
            metadata=header,
        )
    else:
        raise TypeError(f"{type(images).__name__} cannot be written to a file")


def load_images(path: Path) -> ImageSet:
    """Read what :func:`save_images` wrote."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "paths" not in header:
        return TensorImages(tensors["pixels"], tensors["labels"])
    files = json.loads(header["paths"])
    return StreamedImages.restored(
        files["paths"], tensors["appended"], tensors["rows"], tensors["labels"], files["size"]
    )


def image_folders(images: ImageSet) -> list[Path]:
    """The folders whose files are opened when the set is read; empty for a set in memory."""
    if not isinstance(images, StreamedImages):
        return []
    paths, _, rows = images.parts
    used = rows[rows < len(paths)].unique().tolist()
    return sorted({Path(paths[row]).absolute().parent for row in used})
