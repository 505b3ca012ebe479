"""What all loaders use: the request, the folder, the sizes, the digests."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from kdbench._counted import counted
from kdbench.data.base import Augmentation, Dataset, ImageSet
from kdbench.data.class_order import check_names, is_same, recounted, spelt_as
from kdbench.data.fraction import stratified_rows
from kdbench.data.left_out import NOTHING, LeftOut
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, DatasetError
from kdbench.untrusted.text import shown_name


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
    class_names: tuple[str, ...] | None = None
    """The classes in the order in which they are counted. None: the dataset's own order."""

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
    left_out: LeftOut = NOTHING,
) -> Dataset:
    """Apply the sizes that the request asks for, and put a Dataset together.

    Classes are counted in the order that the request states, else in that of ``class_names``. For
    fewer classes the first ones are kept. For fewer images the seed chooses a subset with every
    class in proportion.

    Raises:
        ConfigError: the request wants more classes or images than there are, or states an order of
            other classes.
        DatasetError: a split is empty.
    """
    if request.class_names is not None and not is_same(request.class_names, class_names):
        order = spelt_as(request.class_names, class_names)
        check_names(order, class_names, request.num_classes)
        train, test = (recounted(part, class_names, order) for part in (train, test))
        class_names = order
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
        among = f" of its first {counted(classes, 'class')}; ask for more with --num-classes"
    for what, part in (("train", train), ("test", test)):
        if not len(part):
            raise DatasetError(f"dataset {name!r} has no {what} images{among}")
    left_out = left_out.of_classes(class_names)
    train = _sized(train, request.train_size, "train", request.seed, left_out)
    test = _sized(test, request.test_size, "test", request.seed, left_out)
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
        left_out,
    )


def _sized(part: ImageSet, size: int | None, split: str, seed: int, left_out: LeftOut) -> ImageSet:
    """``size`` images of a split, each class in proportion. None: all."""
    if size is None or size == len(part):
        return part
    if not 1 <= size <= len(part):
        line = left_out.of_split(split).line()
        raise ConfigError(
            f"{split}_size is {size}; the dataset allows 1..{len(part)}{line and f'; {line}'}"
        )
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
        if ":" in request.name:
            near = _close_names(folder)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            raise DatasetError(
                f"dataset {request.name!r}: no folder {folder}{meant}; name the folder ({holds})"
            )
        raise DatasetError(
            f"dataset {request.name!r}: no folder {folder}; pass --data-dir, the folder ({holds})"
        )
    return folder


def _close_names(path: Path) -> list[str]:
    """Paths of what lies in the same folder and is called almost the same."""
    try:
        beside = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return []
    return [shown_name(str(path.parent / name)) for name in get_close_matches(path.name, beside, 2)]
