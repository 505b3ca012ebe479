"""How long and how fast to train."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from kdbench.method import Params

Beta = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Params):
    """How long and how fast to train."""

    epochs: int = Field(ge=0, description="passes over the training images")
    min_steps: int = Field(
        0, ge=0, description="optimiser steps to take at least; raises the epochs on a small set"
    )
    batch_size: int = Field(
        64,
        ge=2,
        description="images a step; a last smaller batch is dropped unless it is the only one",
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD with momentum, or Adam")
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(True, description="SGD: momentum as Nesterov's, else plain")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="Adam: decay of the means of gradients and of their squares"
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty")
    schedule: Literal["onecycle", "steps", "cosine", "constant"] = Field(
        "constant",
        description="onecycle: linear warm-up, then linear to 0; steps: x0.1 at each milestone, "
        "momentum reset; cosine: half a cosine from the peak to 0",
    )
    warmup: float = Field(
        0.2, gt=0, lt=1, description="onecycle: fraction of training before the peak"
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75), description="steps: fractions of training at which the rate drops"
    )

    def passes(self, images: int) -> int:
        """Epochs over a set of that many images: ``epochs``, or more if ``min_steps`` needs it."""
        per_epoch = max(1, images // min(self.batch_size, images))
        return max(self.epochs, math.ceil(self.min_steps / per_epoch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``."""
        progress = step / max(1, steps)
        if self.schedule == "onecycle":
            if progress >= self.warmup:
                return self.lr * ((1 - progress) / (1 - self.warmup))
            # A rate of zero would waste the first step.
            first = 1 / max(1, steps)
            return self.lr * min(1.0, max(progress, first) / self.warmup)
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= m for m in self.milestones)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr
