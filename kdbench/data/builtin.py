"""The datasets that kdbench brings. The module of a loader is imported when it is needed."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from kdbench.data.base import Dataset
from kdbench.data.common import DatasetRequest
from kdbench.data.source import DatasetSource, Loader


def _later(name: str) -> Loader:
    """A loader by ``module:function``, imported when it is called."""

    def load(request: DatasetRequest) -> Dataset:
        loader: Loader = pkgutil.resolve_name(name)
        return loader(request)

    return load


DATASETS: Mapping[str, DatasetSource] = MappingProxyType(
    {
        "signs": DatasetSource(
            _later("kdbench.data.signs:load_signs"),
            about="embedded, drawn on the spot",
            num_classes=10,
            image_size=32,
            train_size=4_000,
            test_size=1_000,
        ),
        "cifar10": DatasetSource(
            _later("kdbench.data.cifar:load_cifar"),
            folder="it holds cifar-10-batches-py/",
            downloadable=True,
            num_classes=10,
            image_size=32,
            train_size=50_000,
            test_size=10_000,
        ),
        "cifar100": DatasetSource(
            _later("kdbench.data.cifar:load_cifar"),
            folder="it holds cifar-100-python/",
            downloadable=True,
            num_classes=100,
            image_size=32,
            train_size=50_000,
            test_size=10_000,
        ),
        "gtsrb": DatasetSource(
            _later("kdbench.data.gtsrb:load_gtsrb"),
            folder="it holds gtsrb/GTSRB/Training and gtsrb/GT-final_test.csv",
            downloadable=True,
            num_classes=43,
            image_size=32,
            train_size=39_209,
            test_size=12_630,
        ),
        "flower17": DatasetSource(
            _later("kdbench.data.folders:load_flower17"),
            folder="it holds jpg/image_0001.jpg to image_1360.jpg",
            num_classes=17,
            image_size=224,
            train_size=1_190,
            test_size=170,
        ),
        "imagenet1k": DatasetSource(
            _later("kdbench.data.folders:load_imagenet"),
            folder="it holds train/<wnid>/ and val/<wnid>/",
            num_classes=1000,
            image_size=224,
            train_size=1_281_167,
            test_size=50_000,
        ),
        "imagefolder": DatasetSource(
            _later("kdbench.data.folders:load_imagefolder"),
            about="a folder of yours: imagefolder:PATH",
            folder="it holds train/<class>/ and test/<class>/; or a zip or tar of these",
            takes_path=True,
            image_size=224,
        ),
    }
)
