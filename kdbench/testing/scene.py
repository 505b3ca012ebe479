"""What methods are tested on: 16x16 images of four classes, and a small network trained on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from kdbench import training
from kdbench.attack import AttackSetting
from kdbench.data.base import Augmentation, Dataset
from kdbench.data.tensor import TensorImages
from kdbench.defense import DefenseSetting
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe, Silent, cross_entropy

CLASSES, SIZE, TARGET = 4, 16, 1
NUMERICS = Numerics(torch.device("cpu"), bf16=False, threads=1)
RECIPE = Recipe(epochs=1, batch_size=40, lr=0.02)
TEACHER, STUDENT = "wrn10_1", "wrn10_1"
_TRAIN, _TEST, _POOL = 240, 160, 80
"""Images. Those for training fill batches of 40, so no batch is dropped."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random states and use one thread, as a stage does. Restore all of it at the
    end."""
    threads = torch.get_num_threads()
    try:
        with training.seeded(seed, cuda=False):
            torch.set_num_threads(NUMERICS.threads)
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def dataset() -> Dataset:
    """240 training and 160 test images of noise. Class k has a bright band in the k-th quarter of
    the rows."""
    return Dataset(
        name="bands",
        train=_draw(_TRAIN, 1),
        test=_draw(_TEST, 2),
        num_classes=CLASSES,
        class_names=("a", "b", "c", "d"),
        mean=(0.35,) * 3,
        std=(0.2,) * 3,
        augmentation=Augmentation(pad=1, flip=True),
        train_digest="bands-train",
        test_digest="bands-test",
    )


def _draw(count: int, seed: int) -> TensorImages:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 150, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    rows = SIZE // CLASSES
    for k in range(CLASSES):
        pixels[labels == k, :, k * rows : (k + 1) * rows] += 60
    return TensorImages(pixels, labels)


def pictures(side: int, count: int) -> Tensor:
    """Random images, float32 (count, 3, side, side), in the memory layout of batches."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, side, side, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def training_images() -> TensorImages:
    """A copy for one method: what the method does to it reaches no other."""
    train = dataset().train
    assert isinstance(train, TensorImages)
    return TensorImages(train.pixels, train.labels.clone())


def pool_images() -> TensorImages:
    """Unlabeled images for one method, drawn as those that it has labels of."""
    return _draw(_POOL, 4)


def network(name: str, seed: int) -> FeatureModel:
    """A network with fresh weights from the seed, in eval mode."""
    data = dataset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name, CLASSES, image_size=SIZE)
    model.set_normalization(data.mean, data.std)
    NUMERICS.place(model)
    return model.eval()


# Kept for the whole process, since every check starts from this teacher.
@cache
def _trained() -> FeatureModel:
    model = network(TEACHER, 0).train()
    # The first check that needs the teacher trains it. It must be the same teacher whoever asks.
    with seeded(0):
        fit()(
            model,
            cross_entropy(model),
            dataset().train,
            Recipe(epochs=6, batch_size=40, lr=0.1, schedule="onecycle"),
            generator=torch.Generator().manual_seed(0),
        )
    return model.eval()


def teacher() -> FeatureModel:
    """A copy of the clean teacher, which the caller may change."""
    return copy.deepcopy(_trained())


def fit() -> Fit:
    """A new training loop. A loop counts its calls, so two methods must not share one."""
    return Fit(NUMERICS, Silent())


def attack_setting(seed: int, loop: Fit | None = None) -> AttackSetting:
    data = dataset()
    generator = torch.Generator().manual_seed(seed)

    def surrogate(name: str) -> FeatureModel:
        return network(name, int(torch.randint(1 << 62, (), generator=generator))).train()

    return AttackSetting(
        teacher=teacher(),
        train=training_images(),
        target_class=TARGET,
        num_classes=CLASSES,
        recipe=RECIPE,
        augmentation=data.augmentation,
        fit=loop or fit(),
        generator=generator,
        numerics=NUMERICS,
        network=surrogate,
    )


def defense_setting(seed: int, *, pool: bool = False) -> DefenseSetting:
    """What a defense is given, with unlabeled images where asked for."""
    data = dataset()
    return DefenseSetting(
        clean=training_images(),
        unlabeled=pool_images() if pool else None,
        num_classes=CLASSES,
        recipe=RECIPE,
        augmentation=data.augmentation,
        fit=fit(),
        generator=torch.Generator().manual_seed(seed),
        numerics=NUMERICS,
    )
