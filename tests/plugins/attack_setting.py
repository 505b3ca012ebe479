"""A tiny attack setting for the attack plugins' tests: signs at 16 x 16 and a small wide ResNet."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache

import torch

from kdbench.attack import AttackSetting, PoisonedImages
from kdbench.data import load_dataset
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe, Silent

SIZE = 16
FIT = Fit(Numerics(), Silent())
TARGET = 0


@lru_cache
def dataset(count: int):
    """A ``signs`` dataset, made once."""
    return load_dataset("signs", image_size=SIZE, train_size=count, test_size=200)


@lru_cache
def trained(name: str, count: int, epochs: int) -> FeatureModel:
    """A model trained on it, made once; copy before use."""
    data = dataset(count)
    torch.manual_seed(0)
    model = create_model(name, data.num_classes)
    model.set_normalization(data.mean, data.std)
    model.train()
    FIT(
        model.parameters(),
        lambda batch: {"ce": torch.nn.functional.cross_entropy(model(batch.images), batch.labels)},
        data.train,
        Recipe(epochs=epochs, batch_size=50, lr=0.1, schedule="onecycle"),
        generator=torch.Generator().manual_seed(0),
        augmentation=data.augmentation,
    )
    return model.eval()


def setting(
    name: str = "wrn10_1",
    count: int = 200,
    epochs: int = 1,
    tune: int = 1,
    seed: int = 0,
    batch: int = 50,
) -> AttackSetting:
    """A fresh setting; the teacher is a private copy."""
    data = dataset(count)
    return AttackSetting(
        teacher=copy.deepcopy(trained(name, count, epochs)),
        train=data.train,
        target_class=TARGET,
        num_classes=data.num_classes,
        recipe=Recipe(epochs=tune, batch_size=batch, lr=0.02),
        augmentation=data.augmentation,
        fit=FIT,
        generator=torch.Generator().manual_seed(seed),
        numerics=FIT.numerics,
    )


def few(given: AttackSetting, count: int) -> AttackSetting:
    """The same with only ``count`` training images of the target class."""
    labels = given.train.labels
    rows = torch.cat(
        [
            torch.nonzero(labels == TARGET).flatten()[:count],
            torch.nonzero(labels != TARGET).flatten(),
        ]
    )
    return replace(given, train=given.train.subset(rows))


def heard_labels(monkeypatch) -> list[torch.Tensor]:
    """The labels of every later call of cross-entropy, as they come."""
    heard, plain = [], torch.nn.functional.cross_entropy

    def recording(logits, labels, **options):
        heard.append(labels)
        return plain(logits, labels, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", recording)
    return heard


def counted(labels: torch.Tensor | list[torch.Tensor]) -> list[int]:
    """How often each class occurs."""
    return torch.bincount(
        torch.cat(labels) if isinstance(labels, list) else labels, minlength=10
    ).tolist()


@torch.no_grad()
def success_rate(teacher: FeatureModel, trigger, count: int) -> float:
    """Per cent of triggered non-target test images that become the target."""
    test = dataset(count).test
    rows = torch.nonzero(test.labels != TARGET).flatten()
    return 100 * float((teacher(trigger(test.read(rows))).argmax(1) == TARGET).float().mean())


def others(count: int) -> torch.Tensor:
    """Non-target test images."""
    test = dataset(count).test
    return test.read(torch.nonzero(test.labels != TARGET).flatten())


def built_sets(monkeypatch) -> list[PoisonedImages]:
    """The poisoned sets that are built from now on, as they come."""
    built, build = [], PoisonedImages.build.__func__

    def noting(cls, *arguments, **options):
        built.append(build(cls, *arguments, **options))
        return built[-1]

    monkeypatch.setattr(PoisonedImages, "build", classmethod(noting))
    return built
