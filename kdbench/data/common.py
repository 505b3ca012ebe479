"""What every loader shares: the request, the digests, stratified subsets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data.base import Augmentation, Dataset, ImageSet
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Request:
    """The arguments of ``load_dataset``, as each loader gets them."""

    name: str
    data_dir: Path | None
    download: bool
    seed: int
    image_size: int | None
    num_classes: int | None
    train_size: int | None
    test_size: int | None
    cache_dir: Path


def padding(size: int, at_32: int) -> int:
    """Shift range for images of ``size`` pixels, ``at_32`` pixels at 32 and in proportion
    elsewhere."""
    return max(1, round(size * at_32 / 32))


def split_digest(facts: tuple[object, ...], part: ImageSet) -> str:
    """SHA-256 over ``facts`` (plain values that ``repr`` tells apart) and the split's shape, labels
    and pixels.

    For a streamed set its file list with sizes stands for the pixels.
    """
    digest = hashlib.sha256(repr((facts, len(part), part.shape)).encode())
    digest.update(part.labels.contiguous().numpy().tobytes())
    if isinstance(part, TensorImages):
        # In pieces, because ``pixels`` is a copy.
        for rows in torch.arange(len(part)).split(1024):
            pixels = part.subset(rows).pixels.permute(0, 2, 3, 1).contiguous().cpu()
            digest.update(pixels.numpy().data)
    else:
        digest.update(getattr(part, "fingerprint", "").encode())
    return digest.hexdigest()


def finish(
    request: Request,
    *,
    name: str,
    train: ImageSet,
    test: ImageSet,
    class_names: tuple[str, ...],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    augmentation: Augmentation,
    note: str = "",
) -> Dataset:
    """Apply the sizes asked for and put a Dataset together.

    Fewer classes keep the first ones; sizes keep a class-balanced subset chosen by the seed. Raises
    ConfigError for more classes or images than there are, DatasetError for an empty split.
    """
    classes, among = len(class_names), ""
    if request.num_classes is not None and request.num_classes != classes:
        if not 2 <= request.num_classes <= classes:
            raise ConfigError(
                f"num_classes is {request.num_classes}; dataset {name!r} allows 2..{classes}"
            )
        classes, class_names = request.num_classes, class_names[: request.num_classes]
        train, test = (
            part.subset((part.labels < classes).nonzero().flatten()) for part in (train, test)
        )
        among = f" of its first {classes} classes; ask for more with --num-classes"
    for what, part in (("train", train), ("test", test)):
        if not len(part):
            raise DatasetError(f"dataset {name!r} has no {what} images{among}")
    train = _sized(train, request.train_size, "train_size", request.seed)
    test = _sized(test, request.test_size, "test_size", request.seed)
    # Not the name in the tables: that of an imagefolder says where it lies, and that of gtsrb how
    # many images were asked for.
    facts = (request.name.partition(":")[0], class_names)
    return Dataset(
        name,
        train,
        test,
        classes,
        class_names,
        mean,
        std,
        augmentation,
        split_digest((*facts, mean, std, augmentation.pad, augmentation.flip), train),
        split_digest(facts, test),
        note,
    )


def _sized(part: ImageSet, size: int | None, what: str, seed: int) -> ImageSet:
    if size is None or size == len(part):
        return part
    if not 1 <= size <= len(part):
        raise ConfigError(f"{what} is {size}; the dataset allows 1..{len(part)}")
    return part.subset(stratified_rows(part.labels, size, seed))


def stratified_rows(labels: Tensor, size: int, seed: int) -> Tensor:
    """``size`` rows in ascending order, each class in proportion (within one row), chosen by
    ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    # Sort by the rank of each row within its class, as a fraction of the class: any prefix is then
    # stratified.
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = order[labels[order] == label]
        rank[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return order[rank[order].argsort(stable=True)[:size]].sort().values


def need_folder(request: Request, holds: str, *, downloadable: bool = False) -> Path:
    """data_dir as an existing folder (created when downloading), or ConfigError/DatasetError saying
    what it holds."""
    folder = request.data_dir
    if request.download and not downloadable:
        raise ConfigError(
            f"dataset {request.name!r} cannot be downloaded; drop --download and pass --data-dir, "
            f"the folder ({holds})"
        )
    if folder is None:
        raise ConfigError(
            f"dataset {request.name!r} is read from disk; pass --data-dir, the folder ({holds})"
        )
    if request.download and not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise DatasetError(
            f"dataset {request.name!r}: no folder {folder}; pass --data-dir, the folder ({holds})"
        )
    return folder
