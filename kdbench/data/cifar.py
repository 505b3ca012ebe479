"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.layout import what_it_holds
from kdbench.data.members import folders_and_others, ignored
from kdbench.data.tensor import TensorImages
from kdbench.errors import DatasetError
from kdbench.untrusted.files import open_regular

# The constants of the feature-distillation code that the paper builds on (Heo et al. 2019). That
# code uses CIFAR-10's constants for CIFAR-100, too.
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

# Bytes. The largest file, CIFAR-100's training images, has 155 MB.
_MOST_BYTES = 1 << 29


def load_cifar(request: DatasetRequest) -> Dataset:
    """``cifar10`` or ``cifar100`` in torchvision's layout.

    data_dir holds cifar-10-batches-py or cifar-100-python.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.name]
    size = request.side
    folder = _holder(request.folder, kind.base_folder)
    _check_files(folder / kind.base_folder)
    try:
        # The batches are pickles. torchvision compares all MD5 sums before it opens one, so none is
        # unpickled without a check.
        train_part, test_part = (
            kind(str(folder), train=train, download=request.download) for train in (True, False)
        )
    except (RuntimeError, OSError, EOFError) as error:
        if request.download:
            what, remedy = f"could not be downloaded to {folder} ({error})", "try again"
        else:
            what = (
                f"at {folder / kind.base_folder} is absent, incomplete or does not match the "
                "published MD5 sums"
            )
            remedy = "pass --download"
        if (archive := folder / kind.filename).is_file():
            remedy += f" (it unpacks {archive})"
        raise DatasetError(
            f"dataset {request.name!r} {what}; {remedy}, or unpack {kind.filename} into {folder}"
            f"{what_it_holds(folder)}"
        ) from error
    train, test = (
        TensorImages(_resized(part.data, size), torch.tensor(part.targets))
        for part in (train_part, test_part)
    )
    return finish(
        request,
        name=request.name,
        train=train,
        test=test,
        class_names=tuple(train_part.classes),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(size, 4), flip=True),
    )


def _holder(folder: Path, name: str) -> Path:
    """The folder that holds the folder ``name``.

    That is ``folder``, the only folder in it that does, or, where ``folder`` is called so itself,
    the one above.
    """
    if (folder / name).is_dir():
        return folder
    if folder.absolute().name == name:
        return folder.absolute().parent
    try:
        there = [at for at, reason in folders_and_others(folder) if not reason]
    except OSError:
        there = []
    inner = [folder / at for at in there if (folder / at / name).is_dir()]
    return inner[0] if len(inner) == 1 else folder


def _check_files(folder: Path) -> None:
    """Refuse files whose MD5 sum would take for ever, before torchvision computes it."""
    for path in sorted(folder.glob("*")):
        if not ignored(path.name) and not path.is_dir():
            with open_regular(path, _MOST_BYTES) as file:
                # Some files have no end although they are regular and of size 0, as in /proc.
                if not os.fstat(file.fileno()).st_size:
                    raise DatasetError(f"{path} is empty; unpack the archive again")


def _resized(data: np.ndarray, size: int) -> torch.Tensor:
    """(N, 32, 32, 3) NumPy uint8 as a (N, 3, size, size) tensor."""
    pixels = torch.from_numpy(data).permute(0, 3, 1, 2)
    if size == pixels.shape[-1]:
        return pixels
    chunks = [
        torch.nn.functional.interpolate(
            chunk.float(), size=(size, size), mode="bilinear", antialias=True
        )
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        for chunk in pixels.split(1000)
    ]
    return torch.cat(chunks)
