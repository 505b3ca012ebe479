"""Datasets by name.

``signs`` is drawn from formulas. The others are read from a folder, imagefolder also from a zip or
tar. Nothing here imports torchvision or PIL until a dataset that needs them is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdbench.data.base import Augmentation, Batch, Dataset, ImageSet
from kdbench.data.builtin import DATASETS
from kdbench.data.class_order import is_same
from kdbench.data.common import DatasetRequest, Request, finish, need_folder, padding
from kdbench.data.source import DatasetSource, Loader
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, ContractError, DatasetError, UnknownMethodError, unknown

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "DatasetRequest",
    "DatasetSource",
    "ImageSet",
    "Loader",
    "Request",
    "TensorImages",
    "check_dataset_name",
    "check_folder",
    "dataset_names",
    "dataset_source",
    "finish",
    "load_dataset",
    "padding",
]


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_dataset`` knows. ``imagefolder`` is written ``imagefolder:PATH``."""
    return tuple(DATASETS)


def dataset_source(name: str, sources: Mapping[str, DatasetSource] = DATASETS) -> DatasetSource:
    """The source of ``NAME`` or ``NAME:PATH``.

    Args:
        sources: datasets by name. ``Registry.datasets`` has those of plugins as well.

    Raises:
        UnknownMethodError: there is none, or it takes no path.
    """
    kind, _, path = name.partition(":")
    if kind not in sources or (path and not sources[kind].takes_path):
        raise UnknownMethodError(
            unknown("dataset", name, sources, "a folder of yours is imagefolder:PATH")
        )
    return sources[kind]


def check_dataset_name(name: str, sources: Mapping[str, DatasetSource] = DATASETS) -> None:
    """Raise UnknownMethodError unless ``name`` can be loaded."""
    dataset_source(name, sources)


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    image_size: int | None = None,
    num_classes: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    class_names: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    sources: Mapping[str, DatasetSource] = DATASETS,
) -> Dataset:
    """Load a dataset.

    Args:
        name: see :func:`dataset_names`.
        data_dir: folder of the dataset. ``signs`` needs none.
        download: fetch it if torchvision can: cifar10, cifar100 and gtsrb. The gtsrb that it
            fetches is older and smaller.
        seed: ``signs`` draws its images from it, and flower17 its split. With ``train_size`` or
            ``test_size`` it chooses which images are kept. Otherwise it changes nothing.
        image_size: 8 to 512 pixels a side. None: 32 for signs, cifar and gtsrb, 224 for others.
        num_classes: the first so many classes. None: 10 for signs, all for others.
        train_size: so many images, each class in proportion. None: 4000 for signs, all for others.
        test_size: as ``train_size``. None: 1000 for signs, all for others.
        class_names: the classes in the order in which they are counted. None: the dataset's own.
        cache_dir: where decoded images and unpacked archives are kept. None: $KDBENCH_CACHE or the
            user's cache folder.
        sources: datasets by name. ``Registry.datasets`` has those of plugins as well.

    Raises:
        UnknownMethodError: there is no such dataset.
        ConfigError: a number is out of range, or the folder is not named.
        DatasetError: the folder is missing, incomplete or cannot be read.
        IntegrityError: an archive of images is damaged, hostile or too large.
    """
    source, data_dir = _located(name, data_dir, sources)
    _check_numbers(
        image_size=image_size,
        num_classes=num_classes,
        train_size=train_size,
        test_size=test_size,
        seed=seed,
    )
    request = DatasetRequest(
        name=name,
        data_dir=data_dir,
        download=download,
        seed=seed,
        image_size=source.image_size if image_size is None else image_size,
        num_classes=num_classes,
        train_size=train_size,
        test_size=test_size,
        cache_dir=Path(cache_dir) if cache_dir is not None else _default_cache(),
        class_names=None if class_names is None else tuple(class_names),
    )
    try:
        _check_folder(request, source)
        return _checked(request, source.load(request))
    except OSError as error:
        # The file system may refuse at any point: a file where a folder should be, or a folder that
        # may not be read.
        raise DatasetError(
            f"dataset {name!r}: cannot use {error.filename or data_dir}: "
            f"{error.strerror or error}; "
            "check --data-dir and its permissions"
        ) from error


def check_folder(
    name: str, data_dir: str | Path | None, sources: Mapping[str, DatasetSource] = DATASETS
) -> None:
    """Raise what :func:`load_dataset` raises where the folder of a dataset is not named, or not
    there."""
    source, data_dir = _located(name, data_dir, sources)
    nothing = (None, None, None, None)
    _check_folder(DatasetRequest(name, data_dir, False, 0, *nothing, _default_cache()), source)


def _located(
    name: str, data_dir: str | Path | None, sources: Mapping[str, DatasetSource]
) -> tuple[DatasetSource, Path | None]:
    """The source of ``NAME`` or ``NAME:PATH``, and the folder."""
    source = dataset_source(name, sources)
    if source.takes_path:
        path = name.partition(":")[2]
        if not path and data_dir is None:
            raise ConfigError(f"dataset {name!r} needs a folder; write {name}:PATH")
        data_dir = path or data_dir
    return source, None if data_dir is None else Path(data_dir).expanduser()


def _check_folder(request: DatasetRequest, source: DatasetSource) -> None:
    if source.folder:
        need_folder(
            request, source.folder, downloadable=source.downloadable, or_file=source.takes_path
        )


#: Smallest and largest value of each number. None: there is no largest.
_RANGES: Mapping[str, tuple[int, int | None]] = {
    "image_size": (8, 512),
    "num_classes": (2, None),
    "train_size": (1, None),
    "test_size": (1, None),
    "seed": (0, 2**63 - 1),
}


def _check_numbers(**numbers: object) -> None:
    """Raise ConfigError for the first number that is out of range. None is always allowed."""
    for what, value in numbers.items():
        low, high = _RANGES[what]
        wrong = (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < low
            or (high is not None and value > high)
        )
        if value is not None and wrong:
            allowed = f"of at least {low}" if high is None else f"in {low}..{high}"
            raise ConfigError(f"{what} is {value!r}; it must be a whole number {allowed}")


def _checked(request: DatasetRequest, dataset: object) -> Dataset:
    """The result of a loader.

    Raises:
        ContractError: it is no dataset, or counts its classes in another order than requested.
    """
    if not isinstance(dataset, Dataset):
        raise ContractError(
            f"dataset {request.name!r} is a {type(dataset).__name__}; return what "
            "kdbench.data.finish returns"
        )
    order = request.class_names
    if order is not None and not is_same(dataset.class_names, order[: dataset.num_classes]):
        raise ContractError(
            f"dataset {request.name!r} does not count its classes in the order of the request; "
            "return what kdbench.data.finish returns"
        )
    return dataset


def _default_cache() -> Path:
    if folder := os.environ.get("KDBENCH_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdbench")) / "datasets"
