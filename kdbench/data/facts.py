"""What is known of a dataset without opening it: for a teacher from elsewhere, and for what a run
will cost."""

from __future__ import annotations

from typing import NamedTuple


class Facts(NamedTuple):
    """num_classes; image_size: pixels a side as it is loaded by default; train, test: images."""

    num_classes: int
    image_size: int
    train: int
    test: int


OFFICIAL = {
    "cifar10": Facts(10, 32, 50_000, 10_000),
    "cifar100": Facts(100, 32, 50_000, 10_000),
    "flower17": Facts(17, 224, 1_190, 170),
    "gtsrb": Facts(43, 32, 39_209, 12_630),
    "imagenet1k": Facts(1000, 224, 1_281_167, 50_000),
    "signs": Facts(10, 32, 4_000, 1_000),
}
