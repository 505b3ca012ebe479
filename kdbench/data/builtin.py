"""The datasets that kdbench brings. The module of a loader is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kdbench.data.base import Dataset
from kdbench.data.common import DatasetRequest
from kdbench.data.source import DatasetSource


def _signs(request: DatasetRequest) -> Dataset:
    from kdbench.data.signs import load_signs

    return load_signs(request)


def _cifar(request: DatasetRequest) -> Dataset:
    from kdbench.data.cifar import load_cifar

    return load_cifar(request)


def _gtsrb(request: DatasetRequest) -> Dataset:
    from kdbench.data.gtsrb import load_gtsrb

    return load_gtsrb(request)


def _flower17(request: DatasetRequest) -> Dataset:
    from kdbench.data.folders import load_flower17

    return load_flower17(request)


def _imagenet(request: DatasetRequest) -> Dataset:
    from kdbench.data.folders import load_imagenet

    return load_imagenet(request)


def _imagefolder(request: DatasetRequest) -> Dataset:
    from kdbench.data.folders import load_imagefolder

    return load_imagefolder(request)


DATASETS: Mapping[str, DatasetSource] = MappingProxyType(
    {
        "signs": DatasetSource(
            _signs,
            about="embedded, drawn on the spot",
            num_classes=10,
            image_size=32,
            train_size=4_000,
            test_size=1_000,
        ),
        "cifar10": DatasetSource(
            _cifar,
            folder="it holds cifar-10-batches-py/",
            downloadable=True,
            num_classes=10,
            image_size=32,
            train_size=50_000,
            test_size=10_000,
        ),
        "cifar100": DatasetSource(
            _cifar,
            folder="it holds cifar-100-python/",
            downloadable=True,
            num_classes=100,
            image_size=32,
            train_size=50_000,
            test_size=10_000,
        ),
        "gtsrb": DatasetSource(
            _gtsrb,
            folder="it holds gtsrb/GTSRB/Training and gtsrb/GT-final_test.csv",
            downloadable=True,
            num_classes=43,
            image_size=32,
            train_size=39_209,
            test_size=12_630,
        ),
        "flower17": DatasetSource(
            _flower17,
            folder="it holds jpg/image_0001.jpg to image_1360.jpg",
            num_classes=17,
            image_size=224,
            train_size=1_190,
            test_size=170,
        ),
        "imagenet1k": DatasetSource(
            _imagenet,
            folder="it holds train/<wnid>/ and val/<wnid>/",
            num_classes=1000,
            image_size=224,
            train_size=1_281_167,
            test_size=50_000,
        ),
        "imagefolder": DatasetSource(
            _imagefolder,
            about="a folder of yours: imagefolder:PATH",
            folder="it holds train/<class>/ and test/<class>/; or a zip or tar of these",
            takes_path=True,
            image_size=224,
        ),
    }
)
