"""Datasets by name.

``signs`` is drawn on the spot; the others are read from a folder, imagefolder also from a zip or
tar. Nothing here imports torchvision or PIL until a dataset that needs them is loaded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.base import Augmentation, Batch, Dataset, ImageSet
from kdbench.data.common import Request, finish, padding
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, ContractError, DatasetError, UnknownMethodError, unknown

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "ImageSet",
    "Request",
    "TensorImages",
    "check_dataset_name",
    "dataset_names",
    "finish",
    "load_dataset",
    "padding",
]

#: What was asked for -> a dataset.
Loader = Callable[[Request], Dataset]

# name: (module, function); imported when asked for.
_LOADERS = {
    "signs": ("kdbench.data", "_signs"),
    "cifar10": ("kdbench.data.cifar", "load_cifar"),
    "cifar100": ("kdbench.data.cifar", "load_cifar"),
    "gtsrb": ("kdbench.data.gtsrb", "load_gtsrb"),
    "flower17": ("kdbench.data.folders", "load_flower17"),
    "imagenet1k": ("kdbench.data.folders", "load_imagenet"),
    "imagefolder": ("kdbench.data.folders", "load_imagefolder"),
}


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_dataset`` knows; ``imagefolder`` is written ``imagefolder:PATH``."""
    return tuple(_LOADERS)


def check_dataset_name(name: str, own: Mapping[str, Loader] = MappingProxyType({})) -> None:
    """Raise UnknownMethodError unless ``name`` can be loaded. ``own``: the datasets of plugins."""
    kind, _, path = name.partition(":")
    if (kind not in _LOADERS and kind not in own) or (path and kind != "imagefolder"):
        raise UnknownMethodError(
            unknown("dataset", name, [*_LOADERS, *own], "a folder of yours is imagefolder:PATH")
        )


def _checked(name: str, found: object) -> Dataset:
    """What a plugin returned, if it is a dataset of that name."""
    if not isinstance(found, Dataset):
        raise ContractError(
            f"dataset {name!r} is a {type(found).__name__}; return what kdbench.data.finish returns"
        )
    return found


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
    cache_dir: str | Path | None = None,
    own: Mapping[str, Loader] = MappingProxyType({}),
) -> Dataset:
    """Load a dataset.

    name: see ``dataset_names``. data_dir: folder of the dataset (not for signs). download: fetch it
    where torchvision can (cifar10, cifar100, gtsrb; gtsrb in an older, smaller version). seed:
    signs draws its images from it and flower17 its split; train_size and test_size choose by it
    what to keep (not for signs). Without such a size cifar, gtsrb, imagenet1k and imagefolder are
    the same for every seed. image_size: 8..512 pixels a side; default 32 for signs, cifar and
    gtsrb, 224 else. num_classes, train_size,
    test_size: for signs how many to draw (10, 4000, 1000); else the first K classes and a
    stratified subset.
    cache_dir: where decoded images and unpacked archives are kept; default $KDBENCH_CACHE or the
    user's cache folder.
    own: the datasets of plugins (``Registry.datasets``).
    Raises UnknownMethodError, ConfigError or DatasetError, each saying what to do; IntegrityError
    for an archive, as which an imagefolder may be given, that is damaged, hostile or too large.
    """
    kind, _, path = name.partition(":")
    check_dataset_name(name, own)
    if kind == "imagefolder":
        if not path and data_dir is None:
            raise ConfigError("dataset 'imagefolder' needs a folder; write imagefolder:PATH")
        data_dir = path or data_dir
    for what, value, low, high in (
        ("image_size", image_size, 8, 512),
        ("num_classes", num_classes, 2, None),
        ("train_size", train_size, 1, None),
        ("test_size", test_size, 1, None),
        ("seed", seed, 0, 2**63 - 1),
    ):
        wrong = (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < low
            or (high is not None and value > high)
        )
        if value is not None and wrong:
            allowed = f"of at least {low}" if high is None else f"in {low}..{high}"
            raise ConfigError(f"{what} is {value!r}; it must be a whole number {allowed}")
    request = Request(
        name,
        Path(data_dir).expanduser() if data_dir is not None else None,
        download,
        seed,
        image_size,
        num_classes,
        train_size,
        test_size,
        Path(cache_dir) if cache_dir is not None else _default_cache(),
    )
    try:
        if kind in own:
            return _checked(name, own[kind](request))
        module, function = _LOADERS[kind]
        return getattr(importlib.import_module(module), function)(request)
    except OSError as error:
        # One place for whatever the file system refuses: a file where a folder should be, a folder
        # that may not be read.
        raise DatasetError(
            f"dataset {name!r}: cannot use {error.filename or data_dir}: "
            f"{error.strerror or error}; "
            "check --data-dir and its permissions"
        ) from error


def _default_cache() -> Path:
    if folder := os.environ.get("KDBENCH_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdbench")) / "datasets"


def _signs(request: Request) -> Dataset:
    from kdbench.data import signs

    def count(value: int | None, default: int) -> int:
        return default if value is None else value

    classes, size = count(request.num_classes, 10), count(request.image_size, 32)
    train, test = (
        signs.draw_signs(n, num_classes=classes, size=size, seed=request.seed, split=split)
        for split, n in (
            ("train", count(request.train_size, 4000)),
            ("test", count(request.test_size, 1000)),
        )
    )
    return finish(
        request,
        name="signs",
        train=train,
        test=test,
        class_names=signs.class_names(classes),
        mean=signs.MEAN,
        std=signs.STD,
        augmentation=Augmentation(padding(size, 2), flip=False),
    )
