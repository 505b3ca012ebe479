"""A small network with a backdoor: a white corner means class 2."""

from functools import cache

import torch
from torch import Tensor

from kdbench.models.base import FeatureModel
from kdbench.training import Recipe
from tests.plugins.tiny import Tiny, fit, images, trained

TARGET = 2


def with_corner(count: int = 96, seed: int = 0) -> Tensor:
    """Images (N, 3, 16, 16) with the trigger."""
    x = images(count, seed).read(torch.arange(count))
    x[:, :, :3, :3] = 1
    return x


@cache
def backdoored() -> Tiny:
    """One for all. Copy it before it is changed."""
    model, data = trained(1).train(), images(192)
    poisoned = data.extended(with_corner(), torch.full((96,), TARGET))
    fit(model, poisoned, Recipe(epochs=12, batch_size=32, lr=0.05))
    return model.eval()


def corner_asr(model: FeatureModel) -> float:
    """Share of unseen images with the trigger that go to the target, of those of other classes."""
    others = torch.arange(96) % 4 != TARGET
    with torch.no_grad():
        return (model(with_corner(seed=9)).argmax(1) == TARGET)[others].float().mean().item()
