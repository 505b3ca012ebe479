"""The little world in which methods are tested: 16x16 pictures of four classes, and a network that
knows them."""

from __future__ import annotations

import copy
from functools import cache

import torch

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
_TRAIN, _TEST = 240, 160


@cache
def dataset() -> Dataset:
    """Class k has a bright band in the k-th quarter of the rows, on noise."""

    def draw(count: int, seed: int) -> TensorImages:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % CLASSES
        pixels = torch.randint(
            0, 150, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8
        )
        rows = SIZE // CLASSES
        for k in range(CLASSES):
            pixels[labels == k, :, k * rows : (k + 1) * rows] += 60
        return TensorImages(pixels, labels)

    return Dataset(
        name="bands",
        train=draw(_TRAIN, 1),
        test=draw(_TEST, 2),
        num_classes=CLASSES,
        class_names=("a", "b", "c", "d"),
        mean=(0.35,) * 3,
        std=(0.2,) * 3,
        augmentation=Augmentation(pad=1, flip=True),
        train_digest="bands-train",
        test_digest="bands-test",
    )


def training_images() -> TensorImages:
    """A private copy, which a method may spoil without spoiling it for the next."""
    train = dataset().train
    assert isinstance(train, TensorImages)
    return TensorImages(train.pixels, train.labels.clone())


def network(name: str, seed: int) -> FeatureModel:
    """A new one, in eval mode."""
    data = dataset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name, CLASSES, image_size=SIZE)
    model.set_normalization(data.mean, data.std)
    NUMERICS.place(model)
    return model.eval()


@cache
def _trained() -> FeatureModel:
    model = network(TEACHER, 0).train()
    fit()(
        model,
        cross_entropy(model),
        dataset().train,
        Recipe(epochs=6, batch_size=40, lr=0.1, schedule="onecycle"),
        generator=torch.Generator().manual_seed(0),
    )
    return model.eval()


def teacher() -> FeatureModel:
    """A private copy of the clean teacher."""
    return copy.deepcopy(_trained())


def fit() -> Fit:
    """A loop of its own: it counts its calls."""
    return Fit(NUMERICS, Silent())


def attack_setting(seed: int, loop: Fit | None = None) -> AttackSetting:
    data = dataset()
    return AttackSetting(
        teacher=teacher(),
        train=training_images(),
        target_class=TARGET,
        num_classes=CLASSES,
        recipe=RECIPE,
        augmentation=data.augmentation,
        fit=loop or fit(),
        generator=torch.Generator().manual_seed(seed),
        numerics=NUMERICS,
    )


def defense_setting(seed: int) -> DefenseSetting:
    data = dataset()
    return DefenseSetting(
        clean=training_images(),
        num_classes=CLASSES,
        recipe=RECIPE,
        augmentation=data.augmentation,
        fit=fit(),
        generator=torch.Generator().manual_seed(seed),
        numerics=NUMERICS,
    )
