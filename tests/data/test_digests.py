"""What a dataset's digests change with, and what they do not."""

from __future__ import annotations

import shutil

import pytest
import torch

from kdbench.data import Augmentation, TensorImages, load_dataset
from kdbench.data import gtsrb as gtsrb_module
from kdbench.data.common import Request, finish
from kdbench.data.tensor import to_float
from tests.data.pictures import folder, some_images

KNOWN = dict(
    name="x",
    class_names=("a", "b", "c"),
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    augmentation=Augmentation(1, flip=False),
)


def dataset(**changed):
    request = Request(changed.pop("kind", "x"), None, False, 0, None, None, None, None, None)
    parts = {"train": some_images(12), "test": some_images(9)}
    return finish(request, **(KNOWN | parts | changed))


def other_pixel(images):
    pixels = images.pixels
    pixels[3, 1, 2, 2] ^= 1
    return TensorImages(pixels, images.labels)


@pytest.mark.parametrize(
    ("changed", "train", "test"),
    [
        ({"name": "x-subset", "note": "a part"}, False, False),
        ({"kind": "x:/elsewhere"}, False, False),
        ({"kind": "y"}, True, True),
        ({"class_names": ("a", "b", "d")}, True, True),
        ({"class_names": ("a", "b", "c", "d")}, True, True),
        ({"mean": (0.5, 0.5, 0.4)}, True, False),
        ({"std": (0.2, 0.2, 0.3)}, True, False),
        ({"augmentation": Augmentation(2, flip=False)}, True, False),
        ({"augmentation": Augmentation(1, flip=True)}, True, False),
        ({"test": some_images(8)}, False, True),
        ({"train": some_images(11)}, True, False),
        ({"train": other_pixel(some_images(12))}, True, False),
        ({"test": other_pixel(some_images(9))}, False, True),
        (
            {"train": TensorImages(some_images(12).pixels, some_images(12).labels.flip(0))},
            True,
            False,
        ),
        ({"train": some_images(12, 7, 6)}, True, False),
    ],
)
def test_each_digest_changes_with_what_it_covers_and_nothing_else(changed, train, test):
    before, after = dataset(), dataset(**changed)
    assert (before.train_digest != after.train_digest) is train
    assert (before.test_digest != after.test_digest) is test
    assert (before.digest != after.digest) is (train or test)
    assert len({before.digest, before.train_digest, before.test_digest}) == 3


def test_a_view_has_the_digest_of_its_images():
    rows = torch.tensor([2, 0, 7])
    copied = TensorImages(some_images().pixels[rows], some_images().labels[rows])
    assert (
        dataset(train=some_images().subset(rows)).train_digest == dataset(train=copied).train_digest
    )
    grown = some_images(2).extended(to_float(some_images(3).pixels[2:]), some_images(3).labels[2:])
    assert dataset(train=grown).train_digest == dataset(train=some_images(3)).train_digest


def test_the_size_of_one_split_leaves_the_other_alone(tree):
    whole, fewer_tests, fewer = (
        folder(tree, **more) for more in ({}, {"test_size": 3}, {"train_size": 6})
    )
    assert whole.train_digest == fewer_tests.train_digest != fewer.train_digest
    assert whole.test_digest == fewer.test_digest != fewer_tests.test_digest
    moved = tree.parent / "elsewhere"
    shutil.move(tree, moved)
    assert folder(moved).digest == whole.digest


def test_gtsrb_trains_on_the_same_whether_or_not_it_is_called_a_subset(signs43, monkeypatch):
    monkeypatch.setattr(gtsrb_module, "OFFICIAL_TRAIN", 43)
    monkeypatch.setattr(gtsrb_module, "OFFICIAL_TEST", 43)
    where = {"data_dir": signs43.parent, "cache_dir": signs43.parent / "cache", "image_size": 8}
    whole, part = (load_dataset("gtsrb", **where, test_size=size) for size in (43, 20))
    assert (whole.name, part.name) == ("gtsrb", "gtsrb-subset")
    assert whole.train_digest == part.train_digest
    assert whole.digest != part.digest
