"""What all loaders use: the request, the folder, the sizes, the digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from kdbench.data.base import Augmentation, Dataset, ImageSet
from kdbench.data.fraction import stratified_rows
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class DatasetRequest:
    """The arguments of ``load_dataset``, as each loader gets them."""

    name: str
    """As the request has it, for example ``imagefolder:PATH``."""
    data_dir: Path | None
    """Folder of the dataset, or an archive."""
    download: bool
    """Fetch the dataset into the folder."""
    seed: int
    """Seed of everything that is drawn or chosen."""
    image_size: int | None
    """Pixels a side. If the request leaves it open, that of the dataset's source."""
    num_classes: int | None
    """Keep the first so many classes. None: all."""
    train_size: int | None
    """Keep so many training images. None: all."""
    test_size: int | None
    """Keep so many test images. None: all."""
    cache_dir: Path
    """Where decoded images and unpacked archives are kept."""

    @property
    def folder(self) -> Path:
        """``data_dir`` of a dataset that reads a folder. kdbench has checked that it exists.

        Raises:
            DatasetError: nobody named one.
        """
        if self.data_dir is None:
            raise DatasetError(f"dataset {self.name!r} needs --data-dir, the folder that it reads")
        return self.data_dir

    @property
    def side(self) -> int:
        """``image_size``, which must be known."""
        if self.image_size is None:
            raise ConfigError(f"dataset {self.name!r} has no size of its own; pass --image-size")
        return self.image_size


#: The name that it had first. Plugins may go on using it.
Request = DatasetRequest


def padding(size: int, at_32: int) -> int:
    """How far images of ``size`` pixels a side are shifted at most, in pixels.

    It is ``at_32`` for 32 pixels a side, and in proportion for other sizes.
    """
    return max(1, round(size * at_32 / 32))


def split_digest(facts: tuple[object, ...], part: ImageSet) -> str:
    """SHA-256 over ``facts`` and the split's shape, labels and pixels.

    ``facts`` are plain values that ``repr`` tells apart. For a streamed set the list of its files
    with their sizes stands for the pixels.
    """
    digest = hashlib.sha256(repr((facts, len(part), part.shape)).encode())
    digest.update(part.labels.contiguous().numpy().tobytes())
    if isinstance(part, TensorImages):
        # In pieces, because ``pixels`` makes a copy of the whole set.
        for rows in torch.arange(len(part)).split(1024):
            pixels = part.subset(rows).pixels.permute(0, 2, 3, 1).contiguous().cpu()
            digest.update(pixels.numpy().data)
    else:
        digest.update(getattr(part, "fingerprint", "").encode())
    return digest.hexdigest()


def finish(
    request: DatasetRequest,
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
    """Apply the sizes that the request asks for, and put a Dataset together.

    For fewer classes the first ones are kept. For fewer images the seed chooses a subset with every
    class in proportion.

    Raises:
        ConfigError: the request wants more classes or images than there are.
        DatasetError: a split is empty.
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
    # Not the name in the tables. For an imagefolder that says where the folder lies, and for gtsrb
    # whether all images are used. Neither may change a digest.
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
    """``size`` images of a split, each class in proportion. None: all."""
    if size is None or size == len(part):
        return part
    if not 1 <= size <= len(part):
        raise ConfigError(f"{what} is {size}; the dataset allows 1..{len(part)}")
    return part.subset(stratified_rows(part.labels, size, torch.Generator().manual_seed(seed)))


def need_folder(
    request: DatasetRequest, holds: str, *, downloadable: bool = False, or_file: bool = False
) -> Path:
    """``data_dir`` as an existing folder. It is made if the dataset is to be downloaded.

    Args:
        holds: what the folder should hold, for messages.
        downloadable: it can be fetched.
        or_file: it may be a file, which is an archive.

    Raises:
        ConfigError: no folder is named, or it cannot be downloaded.
        DatasetError: there is no such folder.
    """
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
    if not folder.is_dir() and not (or_file and folder.is_file()):
        raise DatasetError(
            f"dataset {request.name!r}: no folder {folder}; pass --data-dir, the folder ({holds})"
        )
    return folder
