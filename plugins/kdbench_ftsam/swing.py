"""The learning rate of BackdoorBench's FT-SAM, which swings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.training import Recipe


class Swing:
    """Shortens the steps of a constant rate: step i of a training of E epochs has the rate
    lr (1 + cos(pi i / E)) / 2.

    Args:
        weights: what is trained.
        recipe: of the training.
        images: how many images it is trained on.
    """

    def __init__(self, weights: list[Tensor], recipe: Recipe, images: int) -> None:
        self.weights, self.before, self.share = weights, weights, 1.0
        self.steps_an_epoch = max(1, images // min(recipe.batch_size, images))

    def begin(self, batch: Batch) -> None:
        """Before a step: how long it will be, and where it starts."""
        # i / E is the share that is done, times the steps of an epoch.
        self.share = (1 + math.cos(math.pi * batch.progress * self.steps_an_epoch)) / 2
        self.before = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def end(self) -> None:
        """After a step: take back the rest of it. Momentum does not depend on the rate."""
        for w, start in zip(self.weights, self.before, strict=True):
            w.copy_(torch.lerp(start, w, self.share))
